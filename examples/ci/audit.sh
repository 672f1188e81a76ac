#!/usr/bin/env bash
# Audits a compressed model in any CI system: writes audit.xml (JUnit), audit.sarif, audit.json and a report folder,
# prints the decision, and ends with 0 (may go on), 1 (a class lost too much) or another code (something is wrong).
#
#   BASELINE=dense.csv CANDIDATE=pruned=pruned.csv ./audit.sh [further options of `tailkeep audit`]
#
# POLICY names a policy file. MAX_CLASS_DROP (percentage points) is a limit for all classes; it replaces the policy's, so
# leave it empty where the policy has one. Without either the limit is 2.
# ON_CANNOT_TELL says what "cannot tell" (exit code 5: too few test images) means for you:
#   fail (the default): what is not shown to be kept does not ship.   warn: let it pass, with the words in the log.
set -uo pipefail

: "${BASELINE:?set BASELINE to the predictions or the model before compression}"
: "${CANDIDATE:?set CANDIDATE to FILE or NAME=FILE after compression}"
OUT="${OUT:-audit}"
ON_CANNOT_TELL="${ON_CANNOT_TELL:-fail}"
case "$ON_CANNOT_TELL" in
  fail | warn) ;;
  *) echo "ON_CANNOT_TELL must be fail or warn, not '$ON_CANNOT_TELL'" >&2; exit 2 ;;
esac

limits=()
if [ -n "${POLICY:-}" ]; then limits+=(--policy "$POLICY"); fi
if [ -n "${MAX_CLASS_DROP:-}" ]; then limits+=(--max-class-drop "$MAX_CLASS_DROP"); fi

tailkeep audit \
  --baseline "$BASELINE" \
  --candidate "$CANDIDATE" \
  ${limits[@]+"${limits[@]}"} \
  --output "junit=$OUT/audit.xml" \
  --output "sarif=$OUT/audit.sarif" \
  --output "json=$OUT/audit.json" \
  --report "$OUT/report" \
  "$@"
code=$?

case $code in
  0) echo "audit: every class is shown to keep its recall" ;;
  1) echo "audit: a class is shown to lose more than is allowed" >&2 ;;
  5)
    echo "audit: cannot tell; the lines above say how many more test images each class needs" >&2
    if [ "$ON_CANNOT_TELL" = warn ]; then code=0; fi
    ;;
  2) echo "audit: the input cannot be used; nothing was compared" >&2 ;;
  *) echo "audit: ended with $code, which is no decision on the model" >&2 ;;
esac
exit "$code"
