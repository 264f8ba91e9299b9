# chillgate and nothing else: a static binary in an empty image.
#
# The binary is built outside and copied in, so that building the image needs no network and no
# other image:
#
#   deploy/build-static.sh            # writes dist/chillgate
#   docker build -t chillgate .       # or: buildah bud --isolation chroot -t chillgate .
#   docker run --rm --read-only -p 127.0.0.1:8800:8800 -v ./chillgate.toml:/etc/chillgate/chillgate.toml:ro chillgate
#
# Without a file it serves ChillMCP on its own loopback, which only containers of the same pod reach.
# To serve others, a configuration has to say so: a front on 0.0.0.0:8800 with an identity.
#
# For servers started with npx or uvx, put chillgate into an image that has them instead:
#
#   FROM node:22-slim
#   COPY --from=chillgate /chillgate /usr/local/bin/chillgate
#   ENTRYPOINT ["chillgate"]
#   CMD ["serve"]
FROM scratch

ARG BINARY=dist/chillgate
COPY --chmod=0755 ${BINARY} /chillgate

LABEL org.opencontainers.image.title="chillgate" \
      org.opencontainers.image.description="A sidecar proxy and policy gateway for the Model Context Protocol" \
      org.opencontainers.image.licenses="Apache-2.0"

# No name is looked up here: there is no /etc/passwd.
USER 65532:65532
EXPOSE 8800 9901
ENTRYPOINT ["/chillgate"]
CMD ["serve"]
