# Debian packages: names what is missing, installs it, and leaves no service running that was not running.
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh

debian_names() {
    for entry in $DEBIAN_PACKAGES; do
        printf '%s\n' "${entry%%>=*}"
    done
}

# The packages and commands as they are now, one a line: part of the fingerprint.
debian_state() {
    # A package or a command that is not there is a state, too: the programs say so by failing.
    # shellcheck disable=SC2046
    dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\n' $(debian_names) 2>/dev/null | sort || true
    for name in go java mvn python3; do
        command -v "$name" || true
    done
}

# version_at_least FOUND MINIMUM
version_at_least() {
    dpkg --compare-versions "$1" ge "$2"
}

# Prints the packages that are not installed, or too old.
debian_missing() {
    for entry in $DEBIAN_PACKAGES; do
        name=${entry%%>=*}
        found=$(dpkg-query -W -f '${db:Status-Abbrev}${Version}' "$name" 2>/dev/null) || found=
        case $found in
        ii*) version_at_least "${found#ii }" "${entry#*>=}" || printf '%s\n' "$name" ;;
        *) printf '%s\n' "$name" ;;
        esac
    done
    printf '%s\n' "$DEBIAN_COMMANDS" | while read -r command package; do
        [ -z "$command" ] || command -v "$command" >/dev/null || printf '%s\n' "$package"
    done
    python3 -c 'import ensurepip, venv' 2>/dev/null || printf 'python3\npython3-venv\n'
}

policy=/usr/sbin/policy-rc.d
policy_made=
as_root=

# Undoes what debian_install changed for the time of the installation.
debian_clean_up() {
    if [ -n "$policy_made" ]; then
        $as_root rm -f "$policy"
        policy_made=
        [ ! -e "$policy.before-sluice" ] || $as_root mv "$policy.before-sluice" "$policy"
    fi
}

debian_install() {
    command -v dpkg-query >/dev/null || die "Debian or Ubuntu is needed (no dpkg here). Packages wanted: $(debian_names | tr '\n' ' ')"
    missing=$(debian_missing | tr '\n' ' ')
    if [ -n "$missing" ]; then
        if [ "$(id -u)" != 0 ]; then
            command -v sudo >/dev/null || die "as root, please: apt-get install $missing"
            as_root=sudo
        fi
        say "installs these Debian packages: $missing"
        $as_root apt-get update -q >/dev/null || say "apt-get update failed: going on with the package lists as they are"
        for name in $missing; do
            candidate=$(apt-cache policy "$name" | sed -n 's/^ *Candidate: //p')
            if [ -z "$candidate" ] || [ "$candidate" = "(none)" ]; then
                debian_explain "$name"
            fi
        done
        running=$(debian_services)
        # Packages ask this before they start their service; 101 means "not now".
        [ ! -e "$policy" ] || [ -e "$policy.before-sluice" ] || $as_root mv "$policy" "$policy.before-sluice"
        policy_made=yes
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod 755 "$policy"
        # shellcheck disable=SC2086
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -q -y --no-install-recommends $missing ||
            die "apt-get could not install: $missing"
        debian_clean_up
        debian_stop_new "$running"
    fi
    debian_check
}

# Which of the services that our packages bring are enabled or running.
debian_services() {
    command -v systemctl >/dev/null || return 0
    for service in redis-server prometheus; do
        if systemctl is-active -q "$service" 2>/dev/null || systemctl is-enabled -q "$service" 2>/dev/null; then
            printf '%s ' "$service"
        fi
    done
}

# Sluice starts its own Redis where it needs one; a service that came with a package is not to come up at the next boot.
debian_stop_new() {
    command -v systemctl >/dev/null || return 0
    for service in redis-server prometheus; do
        case " $1 " in
        *" $service "*) ;;
        # Fails where systemd is installed and does not run, as in a container: then nothing comes up at a boot either.
        *) $as_root systemctl disable -q --now "$service" 2>/dev/null || true ;;
        esac
    done
}

debian_explain() {
    release=$(. /etc/os-release && printf '%s' "${PRETTY_NAME:-this system}")
    case $1 in
    libh2o-dev) die "$release has no package libh2o-dev (the HTTP server library, 2.2.5 or newer).
  Debian 12 has it. Elsewhere build h2o 2.2 with libuv, install its headers and libh2o where the compiler looks, and make
  a package of it (for instance with checkinstall) named libh2o-dev. Or work in a Debian 12 container." ;;
    *) die "$release has no package $1 in its package lists (a release too old, or a component that is not enabled?)" ;;
    esac
}

debian_check() {
    for entry in $DEBIAN_PACKAGES; do
        name=${entry%%>=*}
        found=$(dpkg-query -W -f '${Version}' "$name" 2>/dev/null) || die "$name is not installed"
        version_at_least "$found" "${entry#*>=}" || die "$name $found is too old: ${entry#*>=} or newer is needed"
    done
    go_found=$(go env GOVERSION 2>/dev/null | sed 's/^go//; s/[^0-9.].*//')
    version_at_least "${go_found:-0}" "$GO_MINIMUM" || die "go ${go_found:-?} is too old: $GO_MINIMUM or newer is needed"
    java_found=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
    [ "${java_found:-0}" -ge "$JAVA_MINIMUM" ] ||
        die "the java on PATH is ${java_found:-of an unknown version}: $JAVA_MINIMUM or newer is needed (package openjdk-$JAVA_MINIMUM-jre-headless)"
}
