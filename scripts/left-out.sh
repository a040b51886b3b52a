#!/usr/bin/env bash
# Says that something is left out because NAME is not here: left-out.sh NAME REASON. Fails when the
# comma-separated list in REQUIRE names it. scripts/test.sh collects these lines for its summary.
set -euo pipefail
case ",${REQUIRE:-}," in
	*",$1,"*) echo "required, but not here: $1: $2" >&2; exit 1 ;;
	*) echo "left out: $1: $2" ;;
esac
