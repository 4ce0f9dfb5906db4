#!/usr/bin/env bash
# Runs a command again for as long as it asks for it: launch/supervise.sh anystep train --config shapes --workdir runs/shapes
# Exit codes 42 (stopped and saved, or stuck) and 143 (terminated) start it again, after a pause that doubles from 1 to 60 seconds and falls
# back to 1 once a run has lasted five minutes. Every other code ends this script with it (of several hosts, one that lost another aborts
# with 134: there, let the cluster restart all). A signal is passed on once and ends it, too.
#   MOST=100   restarts in all    PAUSE=1   seconds of the first pause
set -um # -m: the command gets a process group of its own, so that a signal to the whole group of this script reaches it once, not twice
[ $# -gt 0 ] || { echo "usage: launch/supervise.sh COMMAND [ARGUMENTS]" >&2; exit 2; }
most=${MOST:-100} first=${PAUSE:-1} count=0 child=
pause=$first
leave() { trap - TERM INT; [ -z "$child" ] || { kill -s "$1" "$child" 2>/dev/null; wait "$child"; exit $?; }; exit 143; }
trap 'leave TERM' TERM
trap 'leave INT' INT
while true; do
    began=$SECONDS
    "$@" &
    child=$!
    wait "$child"
    code=$?
    child=
    case $code in 42 | 143) ;; *) exit "$code" ;; esac
    count=$((count + 1))
    [ "$count" -le "$most" ] || { echo "supervise: $most restarts, giving up" >&2; exit "$code"; }
    [ $((SECONDS - began)) -lt 300 ] || pause=$first
    echo "supervise: exit code $code, start $count in $pause s" >&2
    sleep "$pause" &
    wait $!
    pause=$((pause * 2 < 60 ? pause * 2 : 60))
done
