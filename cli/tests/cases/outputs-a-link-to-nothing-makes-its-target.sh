#: stdout a link
ln -s target out
apb convert-heads "$HEADS" out --quiet >shown
[ -L out ] && [ -s target ] && echo 'a link'
