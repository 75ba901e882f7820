#: stdout 600
touch out.safetensors
chmod 600 out.safetensors
apb convert-heads "$HEADS" out.safetensors --quiet >shown
stat -c %a out.safetensors 2>/dev/null || stat -f %Lp out.safetensors
