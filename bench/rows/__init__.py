"""The rows of `make bench`, in groups that share a stack and its turns.

SPDX-License-Identifier: Apache-2.0
"""
