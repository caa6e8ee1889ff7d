# Ends the shared server of the directory $1 some moments after its last user.
#
# Users are files named after process ids in $1/users. This runs apart from all of them, so that it does
# its work however they die. Before it stops the server it puts up the mark "stopping" and looks for users
# once more; a new user first signs in and then looks for the mark: one of the two sees the other.
dir=$1
pid_file="$dir/server/cluster/postmaster.pid"
trap '' INT HUP

has_users() {
    for file in "$dir"/users/*; do
        [ -e "$file" ] && kill -0 "${file##*/}" 2>/dev/null && return 0
    done
    return 1
}

stop_server() {
    [ -e "$pid_file" ] || return 0
    server=$(head -n 1 "$pid_file")
    kill -INT "$server" 2>/dev/null
    looks=0
    while [ -e "$pid_file" ] && [ "$looks" -lt 200 ]; do
        sleep 0.05
        looks=$((looks + 1))
    done
    [ -e "$pid_file" ] && kill -KILL "$server" 2>/dev/null
    return 0
}

quiet=0
while [ -d "$dir" ]; do
    sleep 0.25
    if has_users; then
        quiet=0
        continue
    fi
    quiet=$((quiet + 1))
    # The next test program of a run follows within moments; starting anew for each would cost more.
    [ "$quiet" -lt 12 ] && continue
    echo $$ >"$dir/stopping.new" && mv "$dir/stopping.new" "$dir/stopping"
    if has_users; then
        rm -f "$dir/stopping"
        quiet=0
        continue
    fi
    stop_server
    rm -rf "$dir/server"
    rm -f "$dir/guardian" "$dir/stopping"
    exit 0
done
