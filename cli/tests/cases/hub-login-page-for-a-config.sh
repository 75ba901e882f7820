# What is not the file that was asked for is not kept, whatever the status: it would be used for ever.
#: stderr config.json: expected a JSON object, found something else
#: stderr which begins with `<html>log in
. "$TOOLS/hub.sh"
fetch_helps_later 'body:config.json=<html>log in</html>'
