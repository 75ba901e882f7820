#: exit 3
#: stderr expected
. "$TOOLS/hub.sh"
start_hub 'X-Linked-Size=18446744073709551615' 'Content-Length=18446744073709551615'
apb fetch org/name --source hub
