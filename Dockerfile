FROM rust:1.95-slim-bookworm AS build
# pg_query compiles PostgreSQL's parser and generates its bindings with libclang.
RUN apt-get update \
    && apt-get install -y --no-install-recommends clang libclang-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /pgidle
COPY Cargo.toml Cargo.lock ./
COPY config config
COPY src src
RUN cargo build --locked --release --bin pgidle

FROM debian:bookworm-slim
COPY --from=build /pgidle/target/release/pgidle /usr/local/bin/pgidle
USER 65534:65534
EXPOSE 6432
STOPSIGNAL SIGTERM
ENTRYPOINT ["pgidle"]
CMD ["serve", "--listen", "0.0.0.0:6432"]
