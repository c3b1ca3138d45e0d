# Sourced after common.sh by .ci/run and .ci/full: runs steps one after the other, under headings,
# and sums up the tests that ran in them.

export CI=true
# A skipped test prints why; the test runner would swallow that.
export RUST_TEST_NOCAPTURE=1

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# step NAME COMMAND...: stops everything where the command fails.
step() {
    local name=$1 started=$SECONDS
    shift
    echo "::: $name"
    if ! "$@" </dev/null 2>&1 | tee -a "$log"; then
        echo "::: $name failed after $((SECONDS - started)) s"
        exit 1
    fi
    echo "::: $name passed in $((SECONDS - started)) s"
}

# The tests that could not run on this machine and why, and how many ran.
summary() {
    local skipped
    # Not the lines of a summary within this one.
    skipped=$(grep -v '^ *[0-9]* skipped: ' "$log" | grep -o 'skipped: .*' | sort | uniq -c || true)
    [ -z "$skipped" ] || printf '::: could not be tested here\n%s\n' "$skipped"
    awk '
        match($0, /test result: .*; finished in/) {
            line = substr($0, RSTART, RLENGTH)
            split(line, words, /[ .;]+/)
            for (i in words) {
                if (words[i] == "passed") passed += words[i - 1]
                if (words[i] == "failed") failed += words[i - 1]
                if (words[i] == "ignored") ignored += words[i - 1]
            }
        }
        END { printf "tests: %d passed, %d failed, %d skipped\n", passed, failed, ignored }
    ' "$log"
    echo "::: everything passed in $SECONDS s"
}
