#!/usr/bin/env bash
# curl, as the documentation has it: every transport that it can speak, and coming back where it stopped.
set -euo pipefail

site="http://$FANFARE_HOST:$FANFARE_PORT"
news="$site/sub/$FANFARE_KEY/news"
dir=$(mktemp -d)
reader=
trap 'kill $reader 2>/dev/null || true; rm -rf "$dir"' EXIT

publish() {
  curl -sSf -o "$dir/receipt" -H "Authorization: Bearer $FANFARE_SECRET" -d "$1" "$site/pub/$FANFARE_KEY/news"
}

# Waits until the file has this line.
await() {
  for _ in $(seq 200); do
    grep -q "$2" "$1" 2>/dev/null && return
    sleep 0.05
  done
  echo "no $2 in:" && cat "$1" && exit 1
}

expect() {
  [ "$1" = "$2" ] || { printf 'got\n%s\nwant\n%s\n' "$1" "$2" && exit 1; }
}

echo 'lines'
curl -sSN "$news?transport=stream" >"$dir/lines" & reader=$!
await "$dir/lines" fanfare:subscribed
publish one && publish two
await "$dir/lines" '^two$'
kill "$reader"
expect "$(tail -n +2 "$dir/lines")" $'one\ntwo'

echo 'an event stream, cut off and gone on with'
curl -sSN -H 'Accept: text/event-stream' "$news" >"$dir/events" & reader=$!
await "$dir/events" fanfare:subscribed
publish three
await "$dir/events" '^data: three$'
kill -9 "$reader"
last=$(sed -n 's/^id: //p' "$dir/events" | tail -1)
publish four && publish five
curl -sSN -H 'Accept: text/event-stream' -H "Last-Event-ID: $last" "$news" >"$dir/more" & reader=$!
await "$dir/more" '"recovered":true'
await "$dir/more" '^data: five$'
kill "$reader"
expect "$(grep '^data: f' "$dir/more")" $'data: four\ndata: five'

echo 'long-polls, each from where the last one ended'
for word in four five; do
  tag="\"$last\""
  expect "$(curl -sSf -D "$dir/head" -H "If-None-Match: $tag" "$news")" "$word"
  last=$(sed -n 's/^fanfare-cursor: //Ip' "$dir/head" | tr -d '\r')
done
expect "$(curl -sS -o /dev/null -w '%{http_code}' -H "If-None-Match: \"$last\"" "$news?wait=1")" 304
curl -sSf -H "If-None-Match: \"$last\"" "$news" >"$dir/poll" & reader=$!
publish six
wait "$reader"
expect "$(cat "$dir/poll")" six

echo 'polls, HTTP/1.0, HTTP/2'
expect "$(curl -sSf "$news?transport=poll")" six
expect "$(curl -sSf -0 "$news?transport=poll&backtrack=2")" five
expect "$(curl -sSf --http2-prior-knowledge "$news?backtrack=1")" six
curl -sSN --http2-prior-knowledge "$news?transport=sse&backtrack=2" >"$dir/h2" & reader=$!
await "$dir/h2" '^data: six$'
kill "$reader"

echo 'refusals'
expect "$(curl -sS -w ' %{http_code}' "$news?since=nonsense" | tr -d '\n')" \
  '{"error":"not a whole cursor: send back the one last received, unchanged"} 400'
echo ok
