#!/bin/sh
# Runs the suite in two halves side by side: emulated boards, which mostly wait for QEMU, and everything else.
# Argument: the Python to run it with.
set -u
emulated_log=$(mktemp)
"$1" -m pytest -m qemu >"$emulated_log" 2>&1 &
emulated=$!
trap 'kill "$emulated" 2>/dev/null; rm -f "$emulated_log"' EXIT
trap 'exit 130' INT TERM
"$1" -m pytest -m "not qemu"
others_code=$?
echo 'emulated boards:'
wait "$emulated"
emulated_code=$?
cat "$emulated_log"
[ "$others_code" = 0 ] && [ "$emulated_code" = 0 ]
