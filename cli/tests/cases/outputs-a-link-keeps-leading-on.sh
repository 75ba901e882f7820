#: stdout a link
ln -s target out
touch target
apb convert-heads "$HEADS" out --quiet >shown
[ -L out ] && [ -s target ] && echo 'a link'
