"""The local runner and operator's tool of Sluice: starts, watches, restarts and inspects the stack.

Standard library only, except verify, which runs in the Python environment of the set-up.
SPDX-License-Identifier: Apache-2.0
"""
