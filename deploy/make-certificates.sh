#!/bin/sh
# Makes what a stream server needs to speak TLS to NOVAWF: an authority of its own, and a certificate for its names.
#   deploy/make-certificates.sh FOLDER-FOR-CA FOLDER-FOR-SERVER NAME...
# FOLDER-FOR-CA gets ca.pem, for NOVAWF_STREAM_CA_FILE; FOLDER-FOR-SERVER gets server.pem and server-key.pem. The authority's key
# is thrown away. What is there and good for 30 days more is left alone; newer ones hold once both sides were restarted.
set -eu

[ $# -ge 3 ] || { echo "usage: $0 FOLDER-FOR-CA FOLDER-FOR-SERVER NAME..." >&2; exit 2; }
authority=$1 server=$2
shift 2
days=825

if [ -s "$authority/ca.pem" ] && [ -s "$server/server-key.pem" ] \
  && openssl x509 -in "$server/server.pem" -noout -checkend 2592000 >/dev/null 2>&1 \
  && openssl verify -CAfile "$authority/ca.pem" "$server/server.pem" >/dev/null 2>&1; then
  echo "The certificates are good; nothing was changed."
  exit 0
fi

names=
for name in "$@"; do
  case $name in
    *[!0-9.]*) names="$names,DNS:$name" ;;
    *) names="$names,IP:$name" ;;
  esac
done

umask 077
mkdir -p "$authority" "$server"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days $days -subj "/CN=NOVAWF streams" \
  -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
  -keyout "$work/ca-key.pem" -out "$work/ca.pem" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" \
  -keyout "$work/server-key.pem" -out "$work/server.csr" 2>/dev/null
printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n' "${names#,}" >"$work/extensions"
openssl x509 -req -in "$work/server.csr" -CA "$work/ca.pem" -CAkey "$work/ca-key.pem" -days $days -set_serial "0x$(openssl rand -hex 16)" \
  -extfile "$work/extensions" -out "$work/server.pem" 2>/dev/null

cp "$work/server-key.pem" "$work/server.pem" "$server/"
cp "$work/ca.pem" "$authority/"
chmod 755 "$authority"
chmod 644 "$authority/ca.pem"
# The server runs as a user of its own; nobody else is given this folder.
chmod 755 "$server"
chmod 644 "$server/server.pem" "$server/server-key.pem"
[ -z "${SERVER_OWNER:-}" ] || { chown -R "$SERVER_OWNER" "$server" && chmod 700 "$server" && chmod 600 "$server/server-key.pem"; }
echo "Made certificates for $*, good for $days days."
