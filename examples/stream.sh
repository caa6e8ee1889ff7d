#!/bin/sh
# Follows a topic with curl: server-sent events.
#
#   ./stream.sh order.updated
#
# REALTIME_URL and REALTIME_TOKEN say where and as whom. Without a token it asks a `realtime dev` on this machine.
set -eu
url=${REALTIME_URL:-http://localhost:3000}
topic=${1:-order.updated}
token=${REALTIME_TOKEN:-}
if [ -z "$token" ]; then
    token=$(curl -fsS "$url/auth/token" -H 'content-type: application/json' \
        -d '{"applicationId":"app_default","environment":"development","permissions":["client"]}' |
        sed 's/.*"token":"\([^"]*\)".*/\1/')
fi
exec curl -fsSN -G "$url/api/stream" --data-urlencode "topic=$topic" -H "authorization: Bearer $token"
