FROM rust:1.95-slim-bookworm AS build
# pg_query compiles PostgreSQL's parser and generates its bindings with libclang.
RUN apt-get update \
    && apt-get install -y --no-install-recommends clang libclang-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /pgidle
COPY Cargo.toml Cargo.lock ./
COPY config config
COPY src src
RUN cargo build --locked --release --bin pgidle \
    && strip --strip-debug target/release/pgidle

# The C library and what belongs to it: no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /pgidle/target/release/pgidle /usr/bin/pgidle
USER 65534:65534
EXPOSE 6432
STOPSIGNAL SIGTERM
# It asks what `serve` below answers; with other arguments, let pgidle have HTTP at that address too.
HEALTHCHECK --interval=10s --timeout=6s --start-period=5s \
    CMD ["pgidle", "health", "--http", "127.0.0.1:9187"]
ENTRYPOINT ["pgidle"]
CMD ["serve", "--listen", "0.0.0.0:6432", "--http", "127.0.0.1:9187"]
