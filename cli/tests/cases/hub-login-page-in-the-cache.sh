# What lies in the cache already is not replaced, because it may be another file's: the error names what to remove.
#: stderr expected a JSON object, found something else
#: stderr remove this file, and fetch the model again
. "$TOOLS/hub.sh"
start_hub
apb fetch org/name --source hub >/dev/null || exit 9
blob=hub/hub/models--org--name/blobs/tag-config.json
[ -f "$blob" ] || exit 8
printf '<html>log in</html>' >"$blob"
apb generate --model org/name --document "$DOCUMENT" --query Why? && exit 7
HF_HUB_OFFLINE=1 apb generate --model org/name --document "$DOCUMENT" --query Why? 2>offline && exit 6
grep -q "remove this file" offline || exit 5
rm "$blob"
apb generate --model org/name --document "$DOCUMENT" --query Why? --greedy --max-tokens 2 >/dev/null
