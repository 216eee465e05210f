#!/bin/sh
# Three nodes and two Redis shards, as plain processes of this machine. Ctrl-C ends them all.
#
# Not here: what a real installation has beside them (docs/scaling.md).
set -eu
cd "$(dirname "$0")/.."

command -v redis-server >/dev/null || { echo "redis-server is missing: apt-get install redis-server" >&2; exit 1; }
cargo build --release

data=$(mktemp -d)
pids=
end() {
    trap - EXIT INT TERM
    # Some may have ended by themselves.
    kill $pids 2>/dev/null || true
    wait
    rm -rf "$data"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

for port in 7001 7002; do
    redis-server --port $port --bind 127.0.0.1 --save '' --dir "$data" >"$data/redis-$port.log" &
    pids="$pids $!"
done
until redis-cli -p 7001 ping && redis-cli -p 7002 ping; do sleep 0.1; done >/dev/null 2>&1

export FANFARE_REDIS='redis://127.0.0.1:7001#one,redis://127.0.0.1:7002#two'
for n in 1 2 3; do
    "${CARGO_TARGET_DIR:-target}"/release/fanfare serve --listen 127.0.0.1:600$n --admin-listen 127.0.0.1:960$n --data-dir "$data/$n" \
        >"$data/node-$n.log" 2>&1 &
    pids="$pids $!"
done
for n in 1 2 3; do
    until curl -sf "http://127.0.0.1:960$n/readyz" >/dev/null; do
        kill -0 "${pids##* }" || { cat "$data"/node-*.log >&2; exit 1; }
        sleep 0.1
    done
done

echo
echo "two Redis servers on ports 7001 and 7002, three nodes:"
for n in 1 2 3; do echo "    http://127.0.0.1:600$n/     metrics: http://127.0.0.1:960$n/metrics"; done
echo "open two of them in two tabs: what you type in one appears in the other. Ctrl-C ends all."
wait
