// Everything in one process: database, API, change source and a worker per store. Apart from worker.ts, this is the only place that
// names both a source and stores.
import { accessSync, constants, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { trace } from '@opentelemetry/api';
import { createApp } from '../api/app.ts';
import type { Handler } from '../api/app.ts';
import { startImports } from '../api/import/carry.ts';
import { listen } from '../api/server.ts';
import type { Listening } from '../api/server.ts';
import { loadConfiguration } from '../config/configuration.ts';
import type { Address, StoreConfiguration } from '../config/configuration.ts';
import type { Log } from '../connectors/contract/connector.ts';
import type { LedgerAccess } from '../consumers/ledger-access.ts';
import { startWorker } from '../consumers/worker.ts';
import { ADMINISTRATOR_SCOPES } from '../ledger/contract/api-keys.ts';
import type { ApiKey } from '../ledger/contract/api-keys.ts';
import { openLedger } from '../ledger/open-ledger.ts';
import type { OpenLedger } from '../ledger/open-ledger.ts';
import { lastSetBack } from '../ledger/set-back.ts';
import { syncStores } from '../ledger/stores.ts';
import type { StoreRegistration } from '../ledger/stores.ts';
import { createPgoutputSource } from '../stream/pgoutput-source.ts';
import { AbideError } from '../suppression/errors.ts';
import { recordedOf } from '../suppression/own-suppression.ts';
import { isChannel } from '../suppression/scope.ts';
import type { DeclaredScopes } from '../suppression/scope.ts';
import { ADMINISTRATOR, makeAdministratorKey } from './administrator-key.ts';
import { createDecisionLines } from './decision-lines.ts';
import { findEmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.ts';
import { isLoopback, lackingSecrets } from './given-secrets.ts';
import { adminKeyFile } from './kept-file.ts';
import { loadConnector } from './load-connector.ts';
import { openDatabase, urlsOf } from './open-database.ts';
import { startStoreWorkers, toWorkerStore } from './store-workers.ts';
import { makeWorkerId } from './worker-id.ts';

export type ServeOptions = {
  /** Null: the embedded default, even where there is an abide.yaml. */
  readonly configPath: string | null | undefined;
  readonly dataFolder: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** False: the API alone; workers run elsewhere. */
  readonly workers: boolean;
  readonly log: Log;
  /** Prints a line for the person who watches the terminal. */
  readonly print: (line: string) => void;
  /** Called once, when it listens and before /readyz first answers 200. */
  readonly announce: (announced: Announced) => void;
  /** The database is not the one any more that this process started with: only another process goes on. */
  readonly onCrash: (error: AbideError) => void;
};

export type Announced = {
  readonly url: string;
  /** Otherwise the terminal is a server's, whose output is kept and read by others. */
  readonly onLoopback: boolean;
  readonly adminKey: AdministratorKey | undefined;
};

export type AdministratorKey = {
  /** Undefined: what is kept or given is not valid, or not valid any more. */
  readonly token: string | undefined;
  /** The file that keeps it; undefined: ABIDE_ADMIN_KEY gave it. */
  readonly keptIn: string | undefined;
  readonly isNew: boolean;
};

export type Serving = {
  readonly url: string;
  /** The administrator's key, if this installation made it or was given it. */
  readonly adminKey: string | undefined;
  stop(): Promise<void>;
};

const HASHED =
  'nobody can tell whose a hashed key is: of what this store suppresses by itself, only suppressions of people whom the ledger knows are recorded';

/** Starts everything and returns once /readyz answers 200. If a step fails, whatever was started is stopped again. */
export async function serve({
  configPath,
  dataFolder,
  env,
  workers,
  log,
  print,
  announce,
  onCrash,
}: ServeOptions): Promise<Serving> {
  await using started = new AsyncDisposableStack();
  makeFolder(dataFolder);
  let embedded: Awaited<ReturnType<typeof startEmbeddedPostgres>> | undefined;
  const startEmbedded = async (): Promise<NonNullable<typeof embedded>> => {
    if (embedded === undefined) {
      const postgres = await startEmbeddedPostgres({ dataFolder, log });
      started.defer(() => postgres.stop());
      embedded = postgres;
    }
    return embedded;
  };
  const configuration = await loadConfiguration({
    path: configPath,
    env,
    loadConnector,
    embeddedStoreUrl: async () => await (await startEmbedded()).createDatabase('crm'),
  });
  const onLoopback = isLoopback(configuration.listen.host);
  // Checked before there is a database that would stay behind.
  const lacking = lackingSecrets(configuration, dataFolder, env);
  if (lacking !== undefined) throw new Error(lacking);
  const overKafka = configuration.source === 'kafka';
  const elsewhere =
    urlsOf(configuration, log) ??
    // `abide stack` runs the server: Debezium and the workers need it beyond this process.
    (overKafka ? (await findEmbeddedPostgres(dataFolder))?.urls : undefined);
  const urls = elsewhere ?? (await startEmbedded()).urls;
  const { pool, ring } = await openDatabase({
    urls,
    whose: configuration.database === undefined ? 'embedded' : 'elsewhere',
    dataFolder,
    env,
    mayMakeSecrets: onLoopback,
    log,
  });

  const setBackAt = await lastSetBack(pool);
  if (setBackAt !== undefined)
    log.warn(
      { noticed: setBackAt },
      'the database went back in time: follow docs/runbook.md, "A ledger that was restored"',
    );
  const lines = createDecisionLines(print);
  const ledger = await openLedger({
    pool,
    ring,
    log,
    canaries: configuration.canary,
    onFound: ({ decisions }) => {
      for (const decision of decisions) lines.recorded(decision);
    },
    onSettled: (store, settled) => {
      lines.settled(store.name, settled);
      api.metrics.settled(store.name, store.scopes.filter(isChannel), settled);
    },
    onExhausted: (direction) => api.metrics.exhausted(direction),
    onSetBack: onCrash,
  });
  started.use(ledger);
  // The clients for what an installation does not have are three hundred modules that a start need not load.
  const path = overKafka
    ? (await import('./tend-kafka-path.ts')).tendKafkaPath({
        kafka: configuration.kafka,
        db: pool,
        replicationUrl: urls.replication,
        log,
      })
    : undefined;
  if (path !== undefined) started.use(path);
  let ready = false;
  const tokenOf =
    configuration.oauth.length === 0
      ? undefined
      : (await import('../api/guard/access-token.ts')).createTokenAuthenticator(configuration.oauth, { log });
  const tracer = configuration.tracing ? trace.getTracer('abide') : undefined;
  const api = createApp({
    declared: configuration.declared,
    ledger: {
      ...ledger,
      ...(tokenOf === undefined
        ? {}
        : { authenticate: async (token) => (await ledger.authenticate(token)) ?? (await tokenOf(token)) }),
      record: async (intent, render) => {
        const answer = await ledger.record(intent, render);
        for (const decision of answer.decisions) lines.recorded(decision);
        return answer;
      },
      grant: async (intent, render) => {
        const answer = await ledger.grant(intent, render);
        for (const decision of answer.decisions) lines.recorded(decision);
        return answer;
      },
      lag: async () => {
        const report = await ledger.lag();
        return path?.seenIn(report) ?? report;
      },
    },
    log,
    defaultRegion: configuration.defaultRegion,
    approveAboveRows: configuration.approveAboveRows,
    opsOnSameListener: onLoopback,
    isReady: () => ready,
    limits: configuration.limits,
    tracer,
    security: configuration.security,
  });
  const { missing, revived } = await syncStores(
    pool,
    configuration.stores.map((store) => toRegistration(store, configuration.declared.topics)),
  );
  if (missing.length > 0) {
    log.warn(
      { stores: missing },
      'registered stores are missing from the configuration: decisions stay due to them until `abide stores retire`',
    );
  }
  if (revived.length > 0) {
    log.warn(
      { stores: revived },
      'retired stores are in service again and are filled anew, since the configuration names them',
    );
  }
  for (const { name, recordOwn, key } of configuration.stores) {
    if (recordOwn && key !== 'plain') log.warn({ store: name }, HASHED);
  }
  await ledger.refresh();
  started.use(startImports({ ledger, log }));
  const adminKey = await administratorKey({
    ledger,
    dataFolder,
    given: env.ABIDE_ADMIN_KEY || undefined,
    mayMake: onLoopback,
    log,
  });

  if (workers && overKafka)
    log.warn(
      { source: 'kafka' },
      'over Kafka, workers run elsewhere: `abide worker --store NAME`, or `npm run stack`',
    );
  if (workers && !overKafka) {
    // Only one process has the server of a data folder, so the next one after a crash goes on with the leases.
    const holder = elsewhere === undefined ? `${hostname()}-embedded` : makeWorkerId();
    const byName = new Map(configuration.stores.map((store) => [store.name, store]));
    const source = createPgoutputSource({ url: urls.replication, publication: 'abide', log });
    const running = startStoreWorkers({
      stores: configuration.stores,
      source,
      pool,
      holder,
      log,
      start: (name) =>
        startWorker({
          store: toWorkerStore(byName.get(name)!),
          ledger: accessTo(ledger, byName.get(name)!, holder),
          source,
          id: holder,
          log,
          tracer,
        }),
    });
    started.defer(() => running.stop());
  }

  const listening = await listenAt(api.handler, configuration.listen, 'start with PORT=… or change `listen`');
  started.defer(() => listening.close());
  if (api.opsHandler !== undefined) {
    const ops = await listenAt(api.opsHandler, configuration.opsListen, 'change `ops_listen`');
    started.defer(() => ops.close());
  }
  announce({ url: listening.url, onLoopback, adminKey });
  ready = true;
  const everything = started.move();
  return { url: listening.url, adminKey: adminKey?.token, stop: () => everything.disposeAsync() };
}

function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (cause) {
    throw new Error(
      `The data folder ${folder} cannot be used (${codeOf(cause)}): name another one by ABIDE_DATA or --data.`,
      { cause },
    );
  }
}

const codeOf = (error: unknown): string => String((error as NodeJS.ErrnoException).code);

const WHY_NOT: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another process listens there',
  EACCES: 'this user may not do that',
  EADDRNOTAVAIL: 'this machine does not have that address',
  ENOTFOUND: 'there is no such host',
};

async function listenAt(handler: Handler, { host, port }: Address, fix: string): Promise<Listening> {
  try {
    return await listen(handler, { host, port });
  } catch (cause) {
    const code = codeOf(cause);
    throw new Error(`Cannot listen on ${host} port ${port}: ${WHY_NOT[code] ?? code}; ${fix}.`, { cause });
  }
}

const isMalformed = (error: unknown): error is AbideError =>
  error instanceof AbideError && error.code === 'invalid-request';

/**
 * The administrator's key: given by ABIDE_ADMIN_KEY, or made at the first start, kept as admin.key (0600), and read from there at
 * every later one. Undefined if there are keys already and none is kept here.
 */
async function administratorKey({
  ledger,
  dataFolder,
  given,
  mayMake,
  log,
}: {
  ledger: OpenLedger;
  dataFolder: string;
  given: string | undefined;
  mayMake: boolean;
  log: Log;
}): Promise<AdministratorKey | undefined> {
  const warnOfScopes = (key: ApiKey): void => {
    const scopes = ADMINISTRATOR_SCOPES.filter((scope) => !key.scopes.includes(scope));
    if (scopes.length === 0) return;
    log.warn(
      { keyId: key.id, scopes },
      "the administrator's key is older than these scopes and does not get them: `abide keys create` makes a key that has them",
    );
  };
  if (given !== undefined) {
    try {
      const { key } = await ledger.createKey({ ...ADMINISTRATOR, token: given });
      // It may have been revoked, or rotated, since it was first given.
      const isValid = (await ledger.authenticate(given)) !== undefined;
      if (isValid) warnOfScopes(key);
      return { token: isValid ? given : undefined, keptIn: undefined, isNew: false };
    } catch (cause) {
      if (!isMalformed(cause)) throw cause;
      throw new Error(
        `ABIDE_ADMIN_KEY cannot be used: ${cause.message} \`abide keys token\` prints a new one.`,
        { cause },
      );
    }
  }
  const file = adminKeyFile(dataFolder);
  const hasKeys = (await ledger.listKeys()).some((key) => key.store === undefined);
  if (existsSync(file)) {
    const token = readFileSync(file, 'utf8').trim();
    // An earlier start ended before it recorded what it kept.
    if (!hasKeys)
      await ledger.createKey({ ...ADMINISTRATOR, token }).catch((error: unknown) => {
        if (!isMalformed(error)) throw error;
      });
    const key = await ledger.authenticate(token);
    if (key === undefined) return { token: undefined, keptIn: file, isNew: false };
    warnOfScopes(key);
    return { token, keptIn: file, isNew: false };
  }
  if (hasKeys) return undefined;
  if (!mayMake) {
    throw new Error(
      'Abide listens beyond this machine, where it makes no secrets of its own: set ABIDE_ADMIN_KEY (`abide keys token` prints a new one).',
    );
  }
  const token = await makeAdministratorKey(dataFolder, (fields) => ledger.createKey(fields));
  return { token, keptIn: file, isNew: true };
}

const toRegistration = (store: StoreConfiguration, topics: DeclaredScopes['topics']): StoreRegistration => ({
  name: store.name,
  connector: store.connectorName,
  accepts: store.accepts,
  scopes: [...store.scopes.keys()],
  topics: store.connector.topics,
  required: store.required,
  evidence: store.connector.evidence,
  lateAfterSeconds: store.lateAfterSeconds,
  fingerprint: store.fingerprint,
  keyForm: store.keyForm,
  stanza: store.stanza,
  ownScopes: store.recordOwn
    ? recordedOf({ scopes: [...store.scopes.keys()], topics: store.connector.topics }, topics)
    : [],
  formerly: store.formerly,
});

/** The ledger as a worker in this process gets it; over HTTP the questions are the same. */
function accessTo(
  ledger: OpenLedger,
  { name: store, stanza }: StoreConfiguration,
  worker: string,
): LedgerAccess {
  return {
    outstanding: async ({ after, limit, waitMs = 0, signal }) => {
      const page = await ledger.outstanding(store, { after, limit, waitMs, worker, stanza, signal });
      if (page === undefined) throw new AbideError('not-found', 'The store is not registered.');
      return page;
    },
    acknowledge: (report) => ledger.acknowledge(store, report),
    newest: async (subjectId) => {
      const newest = await ledger.newest(store, subjectId);
      if (newest === undefined)
        throw new AbideError('not-found', 'Nothing has been decided about the subject.');
      return newest;
    },
    transportKey: async (id) => {
      const key = await ledger.transportKey(id);
      if (key === undefined) throw new AbideError('not-found', `Transport key ${id} is destroyed.`);
      return key;
    },
    canary: () => ledger.canary(store),
    reconciliationPage: () => ledger.reconciliationPage(store, worker),
    compared: async (page, comparison) => {
      await ledger.compared(store, page, comparison);
    },
    listingPage: () => ledger.listingPage(store, worker),
    listed: async (page, listed) => {
      await ledger.listed(store, page, listed);
    },
  };
}
