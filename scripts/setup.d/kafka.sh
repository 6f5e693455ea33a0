# Apache Kafka: the jars, by Maven, each checked against scripts/kafka.sha256; and an archive of loaded classes, which
# halves the broker's start.
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh

make_kafka() {
    cat >pom.xml <<POM
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>sluice</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>$KAFKA_ARTIFACT</artifactId><version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>$SLF4J_VERSION</version></dependency>
  </dependencies>
</project>
POM
    say "fetching Kafka $KAFKA_VERSION by Maven"
    mvn -q -B -C -Dmaven.repo.local="$PWD/m2" \
        "org.apache.maven.plugins:maven-dependency-plugin:$MAVEN_DEPENDENCY_PLUGIN:copy-dependencies" \
        -DoutputDirectory="$PWD/out/libs" -DincludeScope=runtime >mvn.log 2>&1 || {
        cat mvn.log
        return 1
    }
    (cd out/libs && sha256sum --quiet -c "$here/kafka.sha256") || return 1
    [ "$(find out/libs -name '*.jar' | wc -l)" = "$(wc -l <"$here/kafka.sha256")" ] || {
        say "Kafka: another number of jars than scripts/kafka.sha256 names"
        return 1
    }
}

# What the archive holds for: these jars, this Java, and this way to name them (see tools/sluice/kafka.py).
kafka_archive_of() {
    { printf 'libs/*\n'; cat "$SLUICE_CACHE/kafka/stamp"; readlink -f "$(command -v java)"; java -version 2>&1; } | sha256sum | cut -c1-16
}

# Starts a broker once on loopback, sends it a record and reads it back, and keeps the classes that it loaded. A broker starts
# without the archive as well, only more slowly: a failure here is said and does not end the set-up.
kafka_archive() {
    of=$(kafka_archive_of)
    if [ -e "$SLUICE_CACHE/kafka/kafka.jsa" ] && [ "$(cat "$SLUICE_CACHE/kafka/kafka.jsa.stamp" 2>/dev/null)" = "$of" ]; then
        return 0
    fi
    say "kafka: making the archive of classes (a broker runs for some seconds)"
    rm -f "$SLUICE_CACHE"/kafka/kafka.jsa*
    tmp=$SLUICE_CACHE/tmp.archive.$$
    mkdir -p "$tmp"
    if "$SLUICE_CACHE/python/bin/python" "$here/setup.d/kafka_archive.py" "$tmp" 9>&-; then
        mv "$tmp/kafka.jsa" "$SLUICE_CACHE/kafka/kafka.jsa"
        printf '%s\n' "$of" >"$SLUICE_CACHE/kafka/kafka.jsa.stamp"
    else
        say "kafka: no archive of classes could be made (see above); brokers will start more slowly"
    fi
    rm -rf "$tmp"
    tmp=
}
