# A login shell starts from /etc/profile's PATH, which knows nothing of the image's environment.
PATH="/opt/venv/bin:/opt/torchkiln/bin:$PATH"
