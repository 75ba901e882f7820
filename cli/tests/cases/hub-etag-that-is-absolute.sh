# A name that the hub gives never leads out of the cache.
#: exit 3
#: stderr expected
. "$TOOLS/hub.sh"
fetch_stays_inside 'ETag="/tmp/apb-stolen"'
