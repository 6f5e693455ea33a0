# The Python environment of tests, benches and `./sluice verify`: exact versions and checksums of scripts/requirements.txt.
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh

# Prints the real path of a Python that is new enough.
python_find() {
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        "$name" -c 'import sys, venv, ensurepip
wanted = tuple(int(n) for n in sys.argv[1].split("."))
if sys.version_info[:2] >= wanted: print(sys.executable)
else: sys.exit(1)' "$PYTHON_MINIMUM" 2>/dev/null && return 0
    done
    return 1
}

# Which Python the environment is made with: another one makes another environment.
python_version() {
    python=$(python_find) || die "no Python $PYTHON_MINIMUM or newer with the venv module was found"
    "$python" -c 'import platform, sys; print(platform.python_version(), sys.base_prefix)'
}

make_python() {
    python=$(python_find)
    "$python" -m venv out || return 1
    say "fetching Python packages"
    PIP_DISABLE_PIP_VERSION_CHECK=1 out/bin/python -m pip install -q --require-hashes --only-binary :all: --no-compile \
        --no-deps --no-cache-dir -r "$here/requirements.txt" || return 1
    out/bin/python -m pip check >&2 || return 1
    # Scripts name the folder they were made in; it is about to be renamed.
    for script in out/bin/*; do
        [ -L "$script" ] || sed -i "s|$PWD/out|$SLUICE_CACHE/python|g" "$script" || return 1
    done
    # Only saves time at the first start; packages may hold files for other versions of Python, which do not compile.
    out/bin/python -m compileall -q -j 2 out/lib >/dev/null || true
}
