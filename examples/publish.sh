#!/bin/sh
# Publishes an event with curl; prints its id and position.
#
#   ./publish.sh chat.lobby '{"text":"hello"}'
#
# REALTIME_URL and REALTIME_TOKEN say where and as whom. Without a token it asks a `realtime dev` on this machine.
set -eu
url=${REALTIME_URL:-http://localhost:3000}
topic=${1:?usage: publish.sh TOPIC PAYLOAD}
payload=${2:?usage: publish.sh TOPIC PAYLOAD}
token=${REALTIME_TOKEN:-}
if [ -z "$token" ]; then
    token=$(curl -fsS "$url/auth/token" -H 'content-type: application/json' \
        -d '{"applicationId":"app_default","environment":"development","permissions":["publish"]}' |
        sed 's/.*"token":"\([^"]*\)".*/\1/')
fi
curl -fsS "$url/api/events" -H "authorization: Bearer $token" -H 'content-type: application/json' \
    -d "{\"topic\":\"$topic\",\"payload\":$payload}"
echo
