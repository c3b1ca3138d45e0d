#!/usr/bin/env bash
# Runs the tests as a user who owns nothing here and may only read, the way a service reads a
# model that an administrator installed.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ "$(id -u)" -eq 0 ] || fail "only root can become another user"
need jq

# The checkout and the program may lie where that user cannot look.
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
chmod 755 "$place"
git ls-files -z | tar --null --files-from=- --create | tar --extract --no-same-owner --directory "$place"
chmod -R a+rX "$place"
install -d -o nobody "$place/home"
cd "$place"
export CARGO_TARGET_DIR=$place/target

programs=$(
    cargo test --locked --workspace --all-features --lib --bins --tests --no-run \
        --message-format json-render-diagnostics |
        jq -r '
            select(.profile.test and .executable)
            # That one asks cargo, which may lie out of reach, and reads no weights.
            | select(.target.name != "dependency_arrows")
            | "\(.manifest_path) \(.executable)"'
)
# Where cargo lets tests keep their files (CARGO_TARGET_TMPDIR).
install -d -o nobody "$place/target/tmp"

failed=()
while read -r manifest program; do
    echo "     Running $(basename "$program")"
    (
        cd "$(dirname "$manifest")"
        setpriv --reuid=nobody --regid=nogroup --clear-groups --no-new-privs \
            env HOME="$place/home" TMPDIR="$place/home" "$program" </dev/null
    ) || failed+=("$(basename "$program")")
done <<<"$programs"
[ ${#failed[@]} -eq 0 ] || fail "not as this user: ${failed[*]}"
