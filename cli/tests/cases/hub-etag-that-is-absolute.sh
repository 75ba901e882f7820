# A name that the hub gives never leads out of the cache.
#: exit 3
#: stderr expected
. "$TOOLS/hub.sh"
start_hub 'ETag="/tmp/apb-stolen"'
mkdir inner
HF_HOME=$PWD/inner/hub APB_CACHE=$PWD/inner/cache apb fetch org/name --source hub
code=$?
[ -z "$(find . /tmp/apb-stolen -name '*stolen*' 2>/dev/null)" ] || exit 9
exit $code
