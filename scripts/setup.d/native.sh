# DuckDB and librdkafka: fetched as Go modules, which carry static libraries and headers, and made into one shared library each.
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh

# fetch_module MODULE VERSION SUM MODSUM: leaves the module's folder in $module_dir. Go checks it against go.sum.
fetch_module() {
    printf 'module fetch\n\ngo 1.19\n\nrequire %s %s\n' "$1" "$2" >go.mod
    printf '%s %s %s\n%s %s/go.mod %s\n' "$1" "$2" "$3" "$1" "$2" "$4" >go.sum
    say "fetching $1 $2"
    GOFLAGS=-modcacherw GOWORK=off GOTOOLCHAIN=local GOMODCACHE="$PWD/gomod" go mod download -json "$1@$2" >module.json || {
        cat module.json >&2
        return 1
    }
    module_dir=$(sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p' module.json)
    [ -d "$module_dir" ]
}

make_duckdb() {
    eval "sum=\$DUCKDB_SUM_$arch modsum=\$DUCKDB_MODSUM_$arch"
    fetch_module "$DUCKDB_MODULE-$arch" "$DUCKDB_MODULE_VERSION" "$sum" "$modsum" || return 1
    say "linking libduckdb.so"
    gcc -shared -s -o out/libduckdb.so -L"$module_dir" -Wl,--whole-archive -lduckdb_static -Wl,--no-whole-archive \
        -Wl,--start-group -lduckdb_generated_extension_loader -lautocomplete_extension -lcore_functions_extension \
        -licu_extension -ljson_extension -lparquet_extension -lduckdb_fastpforlib -lduckdb_fmt -lduckdb_fsst \
        -lduckdb_hyperloglog -lduckdb_mbedtls -lduckdb_miniz -lduckdb_pg_query -lduckdb_re2 -lduckdb_skiplistlib \
        -lduckdb_utf8proc -lduckdb_yyjson -lduckdb_zstd -Wl,--end-group -Wl,-soname,libduckdb.so \
        -lstdc++ -lm -ldl -lpthread || return 1
    cp "$module_dir/duckdb.h" out/ || return 1
    chmod 644 out/duckdb.h
}

make_rdkafka() {
    fetch_module "$RDKAFKA_MODULE" "$RDKAFKA_MODULE_VERSION" "$RDKAFKA_SUM" "$RDKAFKA_MODSUM" || return 1
    vendor=$module_dir/kafka/librdkafka_vendor
    # Only its own names are shown: the OpenSSL inside must not meet the system's, which h2o and libcurl use.
    printf '{ global: rd_kafka_*; local: *; };\n' >rdkafka.map
    say "linking librdkafka-2.15.so"
    gcc -shared -s -o out/librdkafka-2.15.so -Wl,--whole-archive "$vendor/librdkafka_glibc_linux_$arch.a" \
        -Wl,--no-whole-archive -Wl,--version-script=rdkafka.map -Wl,-soname,librdkafka-2.15.so \
        -lm -ldl -lpthread -lrt || return 1
    # Under both names that programs include it by.
    mkdir out/librdkafka
    cp "$vendor/rdkafka.h" "$vendor/rdkafka_mock.h" out/ || return 1
    chmod 644 out/*.h
    ln out/rdkafka.h out/rdkafka_mock.h out/librdkafka/
}
