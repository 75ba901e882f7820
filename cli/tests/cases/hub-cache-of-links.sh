# Nothing is written through links that another user has left in the cache.
#: exit 3
#: stderr is a link
. "$TOOLS/hub.sh"
start_hub
mkdir -p victim hf/hub/models--org--name
ln -s "$PWD/victim" hf/hub/models--org--name/blobs
HF_HOME=$PWD/hf apb fetch org/name --source hub
code=$?
[ -z "$(ls victim)" ] || exit 9
exit $code
