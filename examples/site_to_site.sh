#!/bin/sh
# Two offices join their networks through srwan, and programs notice nothing of it: a walk through docs/gateway.md.
#
#   alice 10.1.0.2 --- paris ===== relay ===== oslo --- bob 10.2.0.2
#
# All of it lives in network namespaces that are gone when this ends. It runs as root, or as anybody where user namespaces are allowed.
# SRWAN says how to start srwan, if it is not on the path: SRWAN="python -m srwan" examples/site_to_site.sh
set -eu
srwan=${SRWAN:-srwan}

if [ -z "${SITE_TO_SITE_ISOLATED:-}" ]; then
    root=$([ "$(id -u)" = 0 ] || echo --map-root-user)
    SITE_TO_SITE_ISOLATED=1 exec unshare --net --mount --pid --fork --kill-child --mount-proc $root sh "$0"
fi
mount -t tmpfs tmpfs /run # a place for `ip netns` that is ours
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# join A ADDRESS B ADDRESS: a cable between two machines
join() {
    ip link add "to-$3" netns "$1" type veth peer name "to-$1" netns "$3"
    ip -n "$1" address add "$2" dev "to-$3" && ip -n "$1" link set "to-$3" up
    ip -n "$3" address add "$4" dev "to-$1" && ip -n "$3" link set "to-$1" up
}

# up NAME OPTIONS...: start a router and wait until it is in the group
up() {
    name=$1 && shift
    : >"$folder/$name.log"
    ip netns exec "$name" $srwan up --json --name "$name" --state-dir "$folder/$name" "$@" >"$folder/$name.log" 2>&1 &
    tries=0
    until grep -q '"kind": "up"' "$folder/$name.log"; do
        tries=$((tries + 1))
        if [ $tries -gt 300 ]; then cat "$folder/$name.log" >&2 && exit 1; fi
        sleep 0.2
    done
}

for machine in alice paris relay oslo bob; do
    ip netns add $machine
    ip -n $machine link set lo up
done
join alice 10.1.0.2/24 paris 10.1.0.1/24
join paris 192.0.2.1/30 relay 192.0.2.2/30
join relay 198.51.100.1/30 oslo 198.51.100.2/30
join oslo 10.2.0.1/24 bob 10.2.0.2/24
ip -n alice route add default via 10.1.0.1
ip -n bob route add default via 10.2.0.1
ip -n paris route add 198.51.100.0/30 via 192.0.2.2 # "the Internet"
ip -n oslo route add 192.0.2.0/30 via 198.51.100.1
for machine in paris relay oslo; do
    ip netns exec $machine sysctl -q -w net.ipv4.ip_forward=1
done

up relay --udp 192.0.2.2:4710 --control 192.0.2.2:4710
multiaddr=$(sed -n 's/.*"multiaddr": "\([^"]*\)".*/\1/p' "$folder/relay.log" | head -n 1)
up paris --udp 192.0.2.1:4710 --control 192.0.2.1:4710 --bootstrap "$multiaddr" \
    --tun-announce 10.1.0.0/24 --tun-route 10.2.0.0/24=oslo
up oslo --udp 198.51.100.2:4710 --control 198.51.100.2:4710 --bootstrap "$multiaddr" \
    --tun-announce 10.2.0.0/24 --tun-route 10.1.0.0/24=paris

until $srwan status --state-dir "$folder/paris" | grep -q 'behind oslo: ready'; do sleep 0.2; done
until $srwan status --state-dir "$folder/oslo" | grep -q 'behind paris: ready'; do sleep 0.2; done

echo "alice pings bob:"
ip netns exec alice ping -n -c 3 -i 0.3 10.2.0.2
echo
echo "what paris says:"
$srwan status --state-dir "$folder/paris"
