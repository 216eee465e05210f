body='{"name":"message","channels":["news","presence-demo"],"data":"hello from curl"}'
md5=$(printf %s "$body" | openssl md5 -r | cut -d' ' -f1)
query="auth_key=fanfare-key&auth_timestamp=$(date +%s)&auth_version=1.0&body_md5=$md5"
signature=$(printf 'POST\n/apps/1/events\n%s' "$query" | openssl sha256 -hmac fanfare-secret -r | cut -d' ' -f1)
curl -d "$body" "http://127.0.0.1:6001/apps/1/events?$query&auth_signature=$signature"
