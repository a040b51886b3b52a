#!/usr/bin/env bash
# Runs test suites one after the other and prints one summary: test.sh SUITE...
# A suite is a target of the Makefile. The output of each goes to target/test-logs/SUITE.log; what a
# failed one printed last is shown. VERBOSE=1 shows everything; TEST_LOGS names another directory.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# Suites limit their own waiting. This is there for the one that does not.
limit=${SUITE_LIMIT:-3600}
logs=${TEST_LOGS:-${CARGO_TARGET_DIR:-target}/test-logs}
rows=$logs/summary
mkdir -p "$logs"
: > "$rows"
: > "$logs/left-out"
passed=0 failed=0 skipped=0

# Adds up what the runners say at their end: cargo, node, pytest, and `N passed, N failed, N skipped`.
count() { # LOG
	awk '
		/^test result: / { passed += $4; failed += $6; skipped += $8; next }
		/^(#|ℹ) pass / { passed += $3; next }
		/^(#|ℹ) fail / { failed += $3; next }
		/^(#|ℹ) (cancelled) / { failed += $3; next }
		/^(#|ℹ) (skipped|todo) / { skipped += $3; next }
		/^(=+ )?[0-9]+ (passed|failed|skipped|error)/ {
			gsub(/=|,/, " ")
			for (i = 1; i < NF; i++) {
				if ($(i + 1) ~ /^passed$/) passed += $i
				if ($(i + 1) ~ /^(failed|errors?)$/) failed += $i
				if ($(i + 1) ~ /^skipped$/) skipped += $i
			}
		}
		END { print passed + 0, failed + 0, skipped + 0 }' "$1"
}

clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

run() { # COMMAND...
	if command -v timeout > /dev/null; then timeout --foreground "$limit" "$@"; else "$@"; fi
}

suite() { # TARGET
	local log=$logs/$1.log begun=$SECONDS status=0 good bad left what
	printf '%-22s' "$1"
	if [ -n "${VERBOSE:-}" ]; then
		echo
		run "${MAKE:-make}" --no-print-directory "$1" 2>&1 | tee "$log"
		status=${PIPESTATUS[0]}
	else
		run "${MAKE:-make}" --no-print-directory "$1" > "$log" 2>&1 < /dev/null || status=$?
	fi
	read -r good bad left < <(count "$log")
	# A suite may end in another way than by a test that fails.
	[ "$status" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
	[ "$bad" -eq 0 ] && what=ok || what=FAILED
	passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + left))
	sed -n 's/^left out: //p' "$log" >> "$logs/left-out"
	printf '%-22s %8d %8d %8d %8s  %s\n' "$1" "$good" "$bad" "$left" \
		"$(clock $((SECONDS - begun)))" "$what" >> "$rows"
	printf '%-7s %s\n' "$what" "$(clock $((SECONDS - begun)))"
	if [ "$what" = FAILED ] && [ -z "${VERBOSE:-}" ]; then
		echo "---- $log: lines that tell of failures, then the end"
		grep -nE '^(test .* FAILED|FAIL|FAILED|ERROR| *not ok| *✖|required, but)|panicked at' "$log" | head -40
		tail -60 "$log"
		echo "----"
	fi
}

for target in "$@"; do suite "$target"; done

printf '\n%-22s %8s %8s %8s %8s\n' suite passed failed skipped time
cat "$rows"
if [ -s "$logs/left-out" ]; then
	printf '\nLeft out:\n'
	sort -u "$logs/left-out" | sed 's/^/- /'
fi
printf '\n%d min %d s in all; the output of each suite is in %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$logs"
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
