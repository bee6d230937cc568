// A worker on its own: it reaches its store, the API over HTTP and, if decisions travel that way, Kafka and its registry. Its one
// secret of ours is its API key.
import { trace } from '@opentelemetry/api';
import { createHttpLedgerAccess, REFUSALS } from '../consumers/http-ledger-access.ts';
import type { LedgerAccess } from '../consumers/ledger-access.ts';
import { startWorker } from '../consumers/worker.ts';
import type { Log } from '../connectors/contract/connector.ts';
import { DECISIONS_TOPIC, HEARTBEAT_TOPIC, PARKED_TOPIC } from '../debezium/files.ts';
import type { ChangeSource } from '../stream/change-source.ts';
import { createHttpSource } from '../stream/http-source.ts';
import { createKafka } from '../stream/kafka-client.ts';
import { createKafkaSource, createSchemaFetch } from '../stream/kafka-source.ts';
import { AbideError } from '../suppression/errors.ts';
import { loadConfiguration } from '../config/configuration.ts';
import { loadConnector } from './load-connector.ts';
import { toWorkerStore } from './store-workers.ts';
import { makeWorkerId } from './worker-id.ts';

const ASK_MS_MAX = 5_000;

const isRefusal = (error: unknown): error is AbideError =>
  error instanceof AbideError && REFUSALS.some((code) => code === error.code);

/** Throws if the API will have nothing of this worker; one that does not answer yet is waited for. */
async function ask(ledger: LedgerAccess, log: Log): Promise<void> {
  try {
    await ledger.outstanding({ limit: 1, signal: AbortSignal.timeout(ASK_MS_MAX) });
  } catch (error) {
    if (isRefusal(error)) throw error;
    log.warn({ error }, 'the API does not answer yet, will try again');
  }
}

export async function runWorker({
  store: name,
  apiUrl,
  apiKey,
  configPath,
  env,
  log,
  onCrash,
}: {
  store: string;
  apiUrl: string;
  apiKey: string;
  configPath: string | undefined;
  env: Readonly<Record<string, string | undefined>>;
  log: Log;
  /** The API will have nothing of this worker any more: only another process, or another key, goes on. */
  onCrash: (error: AbideError) => void;
}): Promise<{ stop(): Promise<void> }> {
  const configuration = await loadConfiguration({
    path: configPath,
    env,
    loadConnector,
    embeddedStoreUrl: () => {
      throw new AbideError(
        'CONFIG_INVALID',
        'A worker needs an abide.yaml that names its store: --config abide.yaml',
      );
    },
    only: name,
  });
  const store = configuration.stores.find((one) => one.name === name);
  if (store === undefined) {
    throw new AbideError('CONFIG_INVALID', `The configuration has no store ${name}.`);
  }
  const id = makeWorkerId();
  const { stanza } = store;
  const api = createHttpLedgerAccess({ url: apiUrl, key: apiKey, store: name, stanza, workerId: id });
  await ask(api, log);
  const ledger: LedgerAccess = {
    ...api,
    outstanding: (page) =>
      api.outstanding(page).catch((error: unknown) => {
        // This worker would hold the store's lease against one that has the new configuration; or it was renamed, or its key bound
        // elsewhere. An API whose database is being recovered may not know the key yet: that is waited for.
        if (isRefusal(error) && error.code !== 'unauthenticated') onCrash(error);
        throw error;
      }),
  };
  const source: ChangeSource =
    configuration.source === 'kafka'
      ? createKafkaSource({
          kafka: createKafka({ address: configuration.kafka, clientId: `abide-${name}`, log }),
          fetchSchema: createSchemaFetch(configuration.kafka.registry),
          store: name,
          topic: DECISIONS_TOPIC,
          pulseTopic: HEARTBEAT_TOPIC,
          parkedTopic: PARKED_TOPIC,
          log,
        })
      : createHttpSource({ feed: (ask) => ledger.outstanding(ask) });
  const tracer = configuration.tracing ? trace.getTracer('abide') : undefined;
  const worker = startWorker({ store: toWorkerStore(store), ledger, source, id, log, tracer });
  source.start({
    decisions: (batch) => {
      const answered = worker.offer(batch);
      // Kafka's offsets are committed after this. The long poll would only wait, and what is under way must not hold up what comes
      // next.
      return configuration.source === 'kafka' ? answered : Promise.resolve();
    },
    live: () => worker.live(),
    down: () => worker.down(),
  });
  return {
    stop: async () => {
      await source[Symbol.asyncDispose]();
      await worker.stop();
      await api[Symbol.asyncDispose]();
    },
  };
}
