// abide.yaml: what it may say, and what follows from it. Connectors are given by a function, so that nothing here knows
// a store. Every fault is named with line and column, all of them at once.
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { isSupportedCountry } from 'libphonenumber-js/max';
import type { CountryCode } from 'libphonenumber-js/max';
import { z } from 'zod';
import type { Connector } from '../connectors/contract/connector.ts';
import { KeyForm, describeKeyForm } from '../connectors/contract/key-form.ts';
import { AbideError } from '../suppression/errors.ts';
import {
  channelOfTopic,
  CHANNELS,
  isChannel,
  isDeclared,
  isScope,
  PURPOSES,
  TOPIC_NAME,
} from '../suppression/scope.ts';
import type { DeclaredScopes } from '../suppression/scope.ts';
import { normalise } from '../suppression/subject.ts';
import { SUBJECT_KINDS } from '../suppression/subject-kind.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import { readYaml } from './positioned-yaml.ts';
import type { ConfigFault, PositionedYaml } from './positioned-yaml.ts';

type Env = Readonly<Record<string, string | undefined>>;

const Column = z.string().regex(/^[^\0]{1,64}$/, 'must be the name of a column');
const Columns = z.partialRecord(z.enum(CHANNELS), Column).default({});

const GuardedTable = z
  .strictObject({
    table: z.string().regex(/^[^.\0]{1,64}(\.[^.\0]{1,64})?$/, 'must be a table or schema.table'),
    key: Column,
    kind: z.enum(SUBJECT_KINDS).default('email'),
    may_send: Columns,
    suppressed: Columns,
  })
  .refine(({ may_send, suppressed }) => Object.keys({ ...may_send, ...suppressed }).length > 0, {
    error: 'names no column: give may_send or suppressed',
  });
/** A table of contacts that a trigger watches: the column of the address, and what true in a column means. */
export type GuardedTable = z.output<typeof GuardedTable>;

export type StoreConfiguration = {
  readonly name: string;
  /** As in the file: a name of ours, or a path. */
  readonly connectorName: string;
  readonly connector: Connector;
  /** The connector's own part of the stanza, as its schema made it. */
  readonly options: unknown;
  /** Scope → what its value in the file became; undefined if scopes are a list. */
  readonly scopes: ReadonlyMap<string, unknown>;
  readonly accepts: readonly SubjectKind[];
  readonly required: boolean;
  readonly lateAfterSeconds: number;
  readonly key: KeyForm;
  readonly formerly: string | undefined;
  readonly guard: readonly GuardedTable[];
  /** Whether what the store suppresses by itself is recorded. */
  readonly recordOwn: boolean;
  /** SHA-256 over the connector's name, its target and the values of its scopes: another one is another store. */
  readonly fingerprint: Buffer;
  /** Tells one key form from another without giving a secret away. */
  readonly keyForm: string;
  /** SHA-256 over what the API and the store's worker must agree about: which store it is, its keys, and what it holds. */
  readonly stanza: Buffer;
  /** Host and port in one spelling; undefined if the target does not begin with them. */
  readonly server: string | undefined;
  /** What the rest of the target and the values of the scopes name there, in one spelling. */
  readonly place: readonly unknown[];
};

export type Address = { readonly host: string; readonly port: number };

export type Configuration = {
  /** The file; undefined: the embedded default. */
  readonly path: string | undefined;
  readonly source: 'pgoutput' | 'kafka';
  /** The API's role; undefined: embedded PostgreSQL in the data folder. */
  readonly database: string | undefined;
  readonly ownerDatabase: string | undefined;
  readonly replicationDatabase: string | undefined;
  readonly listen: Address;
  readonly opsListen: Address;
  /** For phone numbers without a country code. */
  readonly defaultRegion: CountryCode | undefined;
  readonly kafka: {
    readonly brokers: readonly string[];
    readonly registry: string;
    readonly connect: string;
    readonly tls:
      boolean | { readonly ca?: string; readonly cert?: string; readonly key?: string } | undefined;
    readonly sasl:
      | {
          readonly mechanism: 'plain' | 'scram-sha-256' | 'scram-sha-512';
          readonly username: string;
          readonly password: string;
        }
      | undefined;
  };
  /** A file of opt-outs with more rows waits for another key's approval. */
  readonly approveAboveRows: number;
  /** Spans by OpenTelemetry's API; what becomes of them is up to the SDK, which the operator brings. */
  readonly tracing: boolean;
  /** What can be refused besides channels. */
  readonly declared: DeclaredScopes;
  /** Undefined: none. */
  readonly canary:
    { readonly everySeconds: number; readonly addresses: Readonly<Record<SubjectKind, string>> } | undefined;
  /** Issuers whose access tokens are taken besides API keys. */
  readonly oauth: readonly TokenIssuer[];
  readonly limits: LimitSettings;
  /** Whom to tell of a weakness of this installation; undefined: nobody is named. */
  readonly security: { readonly contact: string; readonly policy: string | undefined } | undefined;
  readonly stores: readonly StoreConfiguration[];
};

/**
 * Gives a connector by its name (`postgres`), or by the path of a data team's own file, relative to the folder of abide.yaml.
 * Throws if there is none, or the file cannot be loaded.
 */
export type LoadConnector = (name: string, folder: string) => Promise<Connector>;

/** So many people that nobody opts them out by mistake and unnoticed. */
export const APPROVE_ABOVE_ROWS = 100_000;

const STORE_NAME = /^[a-z][a-z0-9_-]{0,62}$/;
const nameMessage = 'must begin with a letter and have at most 63 characters of a-z, 0-9, _ and -';

const Topic = z
  .string()
  .regex(
    TOPIC_NAME,
    'must have at most 63 characters of a-z, 0-9, _, . and -, and begin with a letter or digit',
  );

const StoreName = z.string().regex(STORE_NAME, nameMessage);

const PostgresUrl = z.url({ protocol: /^postgres(ql)?$/, error: 'must be a URL beginning with postgres://' });

const ListenAddress = z.string().transform((text, context): Address => {
  const [, bracketed, plain, port] = /^(?:\[([0-9a-fA-F:]+)\]|([^:[\]\s]+)):(\d{1,5})$/.exec(text) ?? [];
  const host = bracketed ?? plain;
  if (host !== undefined && Number(port) <= 65_535) return { host, port: Number(port) };
  context.addIssue({ code: 'custom', message: 'must be host:port, e.g. 127.0.0.1:8080' });
  return z.NEVER;
});

const canaryAddress = (kind: SubjectKind, usual: string) =>
  z
    .string()
    .transform((text, context) => {
      const normal = normalise(kind, text);
      if (normal.ok) return normal.value.reveal();
      context.addIssue({ code: 'custom', message: normal.detail });
      return z.NEVER;
    })
    .prefault(usual)
    .describe(`The canary's ${kind}, which belongs to nobody`);

/** In the configuration it is a file's path, in ours the file's text. */
const PemFile = z.string().transform((path, context) => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    context.addIssue({ code: 'custom', message: 'must be a PEM file that can be read' });
    return z.NEVER;
  }
});

const Tls = z.strictObject({
  ca: PemFile.exactOptional(),
  cert: PemFile.exactOptional(),
  key: PemFile.exactOptional(),
});

/** Nobody's: reserved by RFC 2606, and for fiction by the numbering plan. */
const Canary = z.strictObject({
  every_seconds: z.number().min(1).max(86_400).default(60).describe('How often'),
  email: canaryAddress('email', 'abide-canary@canary.invalid'),
  phone: canaryAddress('phone', '+12025550142'),
  push_token: canaryAddress('push_token', 'abide-canary'),
  person_id: canaryAddress('person_id', 'abide-canary'),
});

/** Only asymmetric ones: with a shared secret, anybody who can check a token could make one. */
const TOKEN_ALGORITHMS = ['ES256', 'ES384', 'EdDSA', 'PS256', 'RS256'] as const;

export type TokenIssuer = {
  /** Part of the names of its clients, `name:client_id`, so that no token passes for an API key's client. */
  readonly name: string;
  readonly issuer: string;
  readonly audience: string;
  readonly jwks: string;
  readonly algorithms: readonly (typeof TOKEN_ALGORITHMS)[number][];
  /** The token's scope → ours; undefined: they have our names. */
  readonly scopes: Readonly<Record<string, readonly string[]>> | undefined;
};

const isSecure = (url: string): boolean =>
  /^https:/.test(url) || /^http:\/\/(?:127\.0\.0\.1|localhost|\[::1\])[:/]/.test(url);

const Issuer = z.strictObject({
  issuer: z.url().describe('What the claim `iss` must have'),
  audience: z.string().min(1).describe('What the claim `aud` must have'),
  jwks: z
    .url()
    .refine(isSecure, 'must be https: what answers there decides who may do what')
    .describe('Where its public keys are'),
  algorithms: z.array(z.enum(TOKEN_ALGORITHMS)).min(1).default(['ES256']),
  scopes: z
    .record(z.string(), z.array(z.string()).min(1))
    .optional()
    .describe("The token's scope → scopes of Abide; absent: they have the same names"),
});

/** For a file of lines: it must contain no space and no line end. */
const webUri = (pattern: RegExp, error: string) => z.string().max(1_000).regex(pattern, error);

const NO_LIMIT = 'must be a whole number from 1, or false for no limit';
const Limit = z.union([z.literal(false), z.int().min(1, NO_LIMIT).max(1_000_000_000, NO_LIMIT)], {
  error: NO_LIMIT,
});

// No honest client meets these default rates: one process answers some thousands of such calls a second in all, and a call of
// checks takes a thousand people. An opt-out that is not recorded harms somebody, so writes have no default limit.
const Limits = z.strictObject({
  writes_per_second: Limit.default(false).describe(
    'Calls of one key that record or change something; `false`, here and below: no limit',
  ),
  checks_per_second: Limit.default(1_000).describe('Calls of one key that ask about people: checks, lookups'),
  reads_per_second: Limit.default(1_000).describe('Calls of one key that read anything else'),
  failed_authentications_per_minute: Limit.default(600).describe(
    'Calls from one address (IPv6: /64) without a valid credential; calls with one are still let in',
  ),
  checks_per_day: Limit.default(false).describe('People about whom one key may ask per day (UTC)'),
  grants_per_day: Limit.default(1_000).describe('Grants of one key per day'),
});

/** Each is undefined if there is no limit. A key may have its own. */
export type LimitSettings = {
  readonly writesPerSecond: number | undefined;
  readonly checksPerSecond: number | undefined;
  readonly readsPerSecond: number | undefined;
  readonly failedAuthenticationsPerMinute: number | undefined;
  readonly checksPerDay: number | undefined;
  readonly grantsPerDay: number | undefined;
};

function toLimits(limits: z.output<typeof Limits>): LimitSettings {
  const limit = (value: number | false): number | undefined => (value === false ? undefined : value);
  return {
    writesPerSecond: limit(limits.writes_per_second),
    checksPerSecond: limit(limits.checks_per_second),
    readsPerSecond: limit(limits.reads_per_second),
    failedAuthenticationsPerMinute: limit(limits.failed_authentications_per_minute),
    checksPerDay: limit(limits.checks_per_day),
    grantsPerDay: limit(limits.grants_per_day),
  };
}

/** What holds if abide.yaml says nothing of them. */
export const DEFAULT_LIMITS: LimitSettings = toLimits(Limits.parse({}));

/** What abide.yaml may say, apart from what is in a stanza. */
export const File = z.strictObject({
  source: z.enum(['pgoutput', 'kafka']).default('pgoutput').describe('How decisions travel'),
  database: PostgresUrl.optional().describe(
    'The ledger, as the role of the API; absent: embedded PostgreSQL',
  ),
  owner_database: PostgresUrl.optional().describe('The same database as the role that migrates it'),
  replication_database: PostgresUrl.optional().describe(
    'The same database as the role that reads the stream',
  ),
  listen: ListenAddress.prefault('127.0.0.1:8080').describe('Where the API listens; PORT overrides the port'),
  ops_listen: ListenAddress.prefault('127.0.0.1:9464').describe(
    'Health and metrics, if listen is not loopback',
  ),
  tracing: z
    .boolean()
    .default(false)
    .describe('Spans, through the OpenTelemetry SDK that is loaded with --import'),
  default_region: z
    .string()
    .transform((region, context): CountryCode => {
      if (isSupportedCountry(region)) return region;
      context.addIssue({ code: 'custom', message: 'must be a country in two capital letters, e.g. GB' });
      return z.NEVER;
    })
    .optional()
    .describe('The country of phone numbers without a country code'),
  topics: z
    .partialRecord(z.enum(CHANNELS), z.array(Topic).min(1))
    .default({})
    .describe('What can be refused within a channel: email: [newsletter, offers]'),
  purposes: z
    .array(z.enum(PURPOSES))
    .default([])
    .describe('Processing that can be refused: analytics, profiling, automated_decisions'),
  imports: z
    .strictObject({
      approve_above_rows: z
        .int()
        .min(0)
        .default(APPROVE_ABOVE_ROWS)
        .describe('A file with more rows than this begins only once another key has approved it'),
    })
    .prefault({}),
  canary: z
    .union([z.literal(false), Canary], { error: 'must be false, or name every_seconds and addresses' })
    .prefault({})
    .describe(
      'A synthetic opt-out at an interval, which shows that the way to each store works; false: none',
    ),
  oauth: z
    .record(StoreName, Issuer)
    .default({})
    .describe('Issuers of access tokens (RFC 9068), by a name of yours: accepted beside API keys'),
  limits: Limits.prefault({}),
  security_contact: webUri(
    /^(?:mailto:|https:\/\/|tel:)[\x21-\x7e]+$/,
    'must be a URI beginning with mailto:, https:// or tel:',
  )
    .optional()
    .describe('Where to report a weakness of this installation, for /.well-known/security.txt'),
  security_policy: webUri(/^https:\/\/[\x21-\x7e]+$/, 'must be a URI beginning with https://')
    .optional()
    .describe('A page that says how reports are handled'),
  kafka: z
    .strictObject({
      brokers: z
        .array(z.string().regex(/^[^\s,]+:\d+$/, 'must be host:port'))
        .min(1)
        .default(['127.0.0.1:9092']),
      registry: z
        .url()
        .default('http://127.0.0.1:8081/apis/ccompat/v7')
        .describe('The schema registry; the URL may have user and password'),
      connect: z
        .url()
        .default('http://127.0.0.1:8083')
        .describe('Kafka Connect, which runs Debezium; the URL may have user and password'),
      tls: z
        .union([z.boolean(), Tls], {
          error: 'must be true, or name PEM files: ca, cert, key',
        })
        .optional()
        .describe('TLS to the brokers: true, or PEM files ca, cert and key'),
      sasl: z
        .strictObject({
          mechanism: z.enum(['plain', 'scram-sha-256', 'scram-sha-512']).default('scram-sha-512'),
          username: z.string().min(1),
          password: z.string().min(1),
        })
        .optional()
        .describe('How Abide logs in to the brokers'),
    })
    .prefault({}),
  stores: z.record(StoreName, z.looseObject({ connector: z.string() })),
});

const STANZA = {
  connector: z
    .string()
    .describe('What kind of store: postgres, mysql, redis, http, or the path of a file of your own, from ./'),
  required: z.boolean().default(true).describe('Whether an opt-out is complete only with this store'),
  late_after_seconds: z
    .number()
    .positive()
    .max(86_400)
    .default(10)
    .describe('After how long an outstanding decision is late'),
  accepts: z
    .array(z.enum(SUBJECT_KINDS))
    .min(1)
    .optional()
    .describe('Fewer kinds than the connector accepts'),
  scopes: z
    .union([z.array(z.string()), z.record(z.string(), z.unknown())], {
      error: 'must be a list of scopes, or a map from scope to value',
    })
    .describe('What the store holds: a list, or a map from scope to a value for the connector'),
  key: KeyForm.default('plain'),
  formerly: StoreName.optional().describe("The store's name before it was renamed"),
  record_own: z
    .boolean()
    .default(false)
    .describe('Record as opt-outs what the store suppresses by itself: see operations.md'),
  guard: z
    .array(GuardedTable)
    .optional()
    .describe('Tables of your contacts that `abide guard` watches: see guard.md'),
};
/** What every stanza may say besides its connector's own options. */
export const Stanza = z.object(STANZA);

/**
 * Reads the file at `path`, else at ABIDE_CONFIG, else ./abide.yaml if it exists, else the embedded default: one PostgreSQL store
 * `crm`, whose URL `embeddedStoreUrl` gives. If `path` is null, it is the embedded default whatever there is. Throws CONFIG_INVALID
 * naming every fault.
 */
export async function loadConfiguration({
  path: asked,
  env,
  loadConnector,
  embeddedStoreUrl,
  only,
}: {
  path?: string | null | undefined;
  env: Env;
  loadConnector: LoadConnector;
  embeddedStoreUrl: () => Promise<string>;
  /** A worker's store: only it, how decisions travel and what is declared are read; secrets of others need not be here. */
  only?: string | undefined;
}): Promise<Configuration> {
  const usual = (): string | undefined =>
    env['ABIDE_CONFIG'] || (existsSync('abide.yaml') ? 'abide.yaml' : undefined);
  const path = asked === null ? undefined : (asked ?? usual());
  const whole =
    path === undefined ? embeddedDefault(await embeddedStoreUrl()) : readYaml(readText(path), env);
  const yaml = only === undefined ? whole : onlyStore(whole, only);
  const faults = [...yaml.faults];
  // Nothing more can be said of a file that is not YAML.
  if (faults.length > 0 && yaml.value === undefined) throw invalid(path, faults);

  const file = File.safeParse(yaml.value ?? {}, WORDS);
  if (!file.success) faults.push(...faultsOf(file.error.issues, [], yaml));
  const stanzas = file.data?.stores ?? readableStanzas(yaml.value);
  for (const name of ['owner_database', 'replication_database'] as const) {
    if (file.data?.[name] !== undefined && file.data.database === undefined) {
      faults.push({ path: [name], at: yaml.positionOfName([], name), detail: 'needs database as well' });
    }
  }
  if (file.data?.security_policy !== undefined && file.data.security_contact === undefined) {
    const at = yaml.positionOfName([], 'security_policy');
    faults.push({ path: ['security_policy'], at, detail: 'needs security_contact as well' });
  }
  const folder = dirname(resolve(path ?? '.'));
  const stores: StoreConfiguration[] = [];
  const declared = readableDeclarations(yaml.value);
  for (const [name, stanza] of Object.entries(stanzas)) {
    const store = await readStore({ name, stanza, yaml, folder, loadConnector, declared });
    if (store instanceof Array) {
      faults.push(...store);
      continue;
    }
    const same = stores.find((one) => one.server === store.server && isSamePlaceOfServer(one, store));
    if (same !== undefined) {
      const path = ['stores', name];
      const detail = `is the same place as ${same.name}, and each would take what the other one writes for the store's own: name all scopes in one stanza`;
      faults.push({ path, at: yaml.positionOf(path), detail });
    }
    stores.push(store);
  }
  const port = readPort(env['PORT'], faults);
  if (faults.length > 0 || !file.success) throw invalid(path, withoutEchoes(faults, yaml.faults));
  const rest = file.data;
  return {
    path,
    source: rest.source,
    database: rest.database,
    ownerDatabase: rest.owner_database,
    replicationDatabase: rest.replication_database,
    listen: { ...rest.listen, ...(port === undefined ? {} : { port }) },
    opsListen: rest.ops_listen,
    defaultRegion: rest.default_region,
    tracing: rest.tracing,
    declared,
    limits: toLimits(rest.limits),
    approveAboveRows: rest.imports.approve_above_rows,
    oauth: Object.entries(rest.oauth).map(([name, issuer]) => ({ name, scopes: undefined, ...issuer })),
    security:
      rest.security_contact === undefined
        ? undefined
        : { contact: rest.security_contact, policy: rest.security_policy },
    canary: rest.canary === false ? undefined : toCanary(rest.canary),
    kafka: { tls: undefined, sasl: undefined, ...rest.kafka },
    stores,
  };
}

const toCanary = ({ every_seconds: everySeconds, ...addresses }: z.output<typeof Canary>) => ({
  everySeconds,
  addresses,
});

/** What a worker reads of the file besides its store. */
const WORKERS: readonly string[] = ['source', 'kafka', 'tracing', 'topics', 'purposes'];

function onlyStore(yaml: PositionedYaml, name: string): PositionedYaml {
  const whole = (yaml.value ?? {}) as { stores?: Readonly<Record<string, unknown>> | null };
  const { stores } = whole;
  const travels = Object.entries(whole).filter(([field]) => WORKERS.includes(field));
  return {
    ...yaml,
    value:
      yaml.value === undefined
        ? undefined
        : {
            ...Object.fromEntries(travels),
            stores: stores?.[name] === undefined ? {} : { [name]: stores[name] },
          },
    faults: yaml.faults.filter(
      ({ path }) =>
        path.length === 0 || WORKERS.includes(String(path[0])) || (path[0] === 'stores' && path[1] === name),
    ),
  };
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    throw new AbideError(
      'CONFIG_INVALID',
      code === 'ENOENT' ? `There is no file ${path}.` : `${path} cannot be read (${code}).`,
      { cause },
    );
  }
}

const embeddedDefault = (url: string): PositionedYaml => ({
  value: { stores: { crm: { connector: 'postgres', url, scopes: ['email', 'sms', 'push'] } } },
  faults: [],
  positionOf: () => undefined,
  positionOfName: () => undefined,
});

function readPort(port: string | undefined, faults: ConfigFault[]): number | undefined {
  if (port === undefined || port === '') return undefined;
  if (/^\d{1,5}$/.test(port) && Number(port) <= 65_535) return Number(port);
  faults.push({ path: [], at: undefined, detail: 'the environment variable PORT is not a port' });
  return undefined;
}

/** The stanzas of a file with other faults, as far as they can be looked at, so that all faults are said at once. */
function readableStanzas(file: unknown): z.infer<typeof File>['stores'] {
  const { stores } = (file ?? {}) as { stores?: Readonly<Record<string, unknown>> | null };
  return Object.fromEntries(
    Object.entries(stores ?? {}).flatMap(([name, stanza]) => {
      const parsed = File.shape.stores.safeParse({ [name]: stanza });
      return parsed.success ? Object.entries(parsed.data) : [];
    }),
  );
}

/** What the file declares, as far as it can be read: a fault in it is said where it stands, not at every store as well. */
function readableDeclarations(file: unknown): DeclaredScopes {
  const { topics, purposes } = (file ?? {}) as { topics?: unknown; purposes?: unknown };
  return {
    topics: File.shape.topics.safeParse(topics).data ?? {},
    purposes: File.shape.purposes.safeParse(purposes).data ?? [],
  };
}

/**
 * Why a store cannot hold this scope here. A topic that is declared nowhere may be a list of the store's own, which every opt-out
 * from its channel reaches. If other topics are declared it is a slip, and what people refuse would never get there.
 */
function undeclared(scope: string, declared: DeclaredScopes): string | undefined {
  if (isChannel(scope) || isDeclared(scope, declared)) return undefined;
  const channel = channelOfTopic(scope);
  if (channel === undefined) {
    return declared.purposes.length === 0
      ? undefined
      : `${scope} is not declared under purposes, which are ${declared.purposes.join(', ')}`;
  }
  const topics = declared.topics[channel];
  return (
    topics &&
    `${scope} is not declared under topics, which are ${topics.map((topic) => `${channel}/${topic}`).join(', ')}`
  );
}

/** A variable that is not set is one fault, not also a second one where its value would be. */
const withoutEchoes = (faults: readonly ConfigFault[], first: readonly ConfigFault[]): ConfigFault[] => {
  const named = new Set(first.map(({ path }) => pointerTo(path)));
  return faults.filter((fault) => first.includes(fault) || !named.has(pointerTo(fault.path)));
};

/** One stanza, or everything that is wrong with it. */
async function readStore({
  name,
  stanza,
  yaml,
  folder,
  loadConnector,
  declared,
}: {
  name: string;
  stanza: Readonly<Record<string, unknown>> & { connector: string };
  yaml: PositionedYaml;
  folder: string;
  loadConnector: LoadConnector;
  declared: DeclaredScopes;
}): Promise<StoreConfiguration | ConfigFault[]> {
  const at = ['stores', name];
  const faults: ConfigFault[] = [];
  const fault = (path: readonly PropertyKey[], detail: string): number =>
    faults.push({ path: [...at, ...path], at: yaml.positionOf([...at, ...path]), detail });

  const connector = await findConnector(stanza.connector, folder, loadConnector);
  if (typeof connector === 'string') {
    fault(['connector'], connector);
    return faults;
  }
  const ours = Stanza.safeParse(stanza, WORDS);
  if (!ours.success) faults.push(...faultsOf(ours.error.issues, at, yaml));
  const own = Object.fromEntries(Object.entries(stanza).filter(([field]) => !(field in STANZA)));
  const options = await strict(connector.options).safeParseAsync(own, WORDS);
  if (!options.success) faults.push(...faultsOf(options.error.issues, at, yaml));
  if (!ours.success) return faults;

  const { accepts = connector.accepts, key } = ours.data;
  accepts.forEach((kind, n) => {
    if (!connector.accepts.includes(kind))
      fault(['accepts', n], `${stanza.connector} does not accept ${kind}`);
  });
  const scopes = new Map<string, unknown>();
  const isList = Array.isArray(ours.data.scopes);
  for (const [index, value] of Object.entries(ours.data.scopes)) {
    const scope = isList ? String(value) : index;
    const where = ['scopes', isList ? Number(index) : index];
    if (!isScope(scope)) {
      fault(
        where,
        `${scope} is not a scope: email, sms, push, a topic such as email/newsletter, or a purpose`,
      );
    } else {
      const slip = undeclared(scope, declared);
      if (slip !== undefined) fault(where, slip);
      if (scopes.has(scope)) fault(where, `${scope} is named twice`);
    }
    if (isList) scopes.set(scope, undefined);
    else if (connector.scopeValue === undefined) fault(where, `${stanza.connector} takes scopes as a list`);
    else {
      const parsed = await strict(connector.scopeValue).safeParseAsync(value, WORDS);
      if (parsed.success) scopes.set(scope, parsed.data);
      else faults.push(...faultsOf(parsed.error.issues, [...at, ...where], yaml));
    }
  }
  if (Object.keys(ours.data.scopes).length === 0) fault(['scopes'], 'names no scope');
  if (ours.data.record_own && connector.evidence !== 'read_back')
    fault(['record_own'], `needs a store that can be read, and ${stanza.connector} cannot`);
  ours.data.guard?.forEach(({ kind, may_send, suppressed }, n) => {
    if (!accepts.includes(kind)) fault(['guard', n, 'kind'], `the store does not accept ${kind}`);
    for (const [where, columns] of Object.entries({ may_send, suppressed })) {
      for (const channel of Object.keys(columns)) {
        if (!scopes.has(channel)) fault(['guard', n, where, channel], `the store does not hold ${channel}`);
      }
    }
  });
  if (!options.success || faults.length > 0) return faults;
  let target: readonly string[];
  let spelled: readonly string[];
  try {
    target = connector.target(options.data);
    spelled = connector.place?.(options.data) ?? target;
  } catch (error) {
    if (!(error instanceof AbideError)) throw error;
    fault(['connector'], error.message);
    return faults;
  }
  const keyForm = describeKeyForm(key);
  // If a scope has a value of its own, such as a list that people are put on, another value is another place.
  const values = isList ? [] : [[...scopes].sort(([a], [b]) => (a < b ? -1 : 1))];
  const fingerprint = sha256([stanza.connector, ...target, ...values]);
  const [host = '', port = '', ...rest] = spelled;
  const server = /^\d+$/.test(port) ? `${inOneSpelling(host)}:${port}` : undefined;
  return {
    name,
    connectorName: stanza.connector,
    connector,
    options: options.data,
    scopes,
    accepts,
    required: ours.data.required,
    lateAfterSeconds: ours.data.late_after_seconds,
    key,
    formerly: ours.data.formerly,
    guard: ours.data.guard ?? [],
    recordOwn: ours.data.record_own,
    fingerprint,
    keyForm,
    stanza: sha256([
      fingerprint.toString('hex'),
      keyForm,
      accepts.toSorted(),
      [...scopes.keys()].sort(),
      connector.topics,
    ]),
    server,
    place: [...(server === undefined ? spelled : rest), ...values],
  };
}

const THIS_MACHINE = ['127.0.0.1', '::1'];

/** A path, which is a socket's, stays as it is. */
function inOneSpelling(host: string): string {
  if (host.startsWith('/')) return host;
  const name = host.toLowerCase().replace(/^\[(.*)\]$|\.$/, '$1');
  return THIS_MACHINE.includes(name) ? 'localhost' : name;
}

/** Whether both could write about the same person in the same row, if their servers are one. */
export const isSamePlaceOfServer = (one: StoreConfiguration, other: StoreConfiguration): boolean =>
  one.connectorName === other.connectorName &&
  isDeepStrictEqual(one.place, other.place) &&
  one.keyForm === other.keyForm &&
  one.accepts.some((kind) => other.accepts.includes(kind));

const sha256 = (parts: readonly unknown[]): Buffer =>
  createHash('sha256').update(JSON.stringify(parts)).digest();

/** The connector, or why there is none. */
const findConnector = (name: string, folder: string, load: LoadConnector): Promise<Connector | string> =>
  load(name, folder).catch((error: unknown) =>
    error instanceof AbideError
      ? error.message
      : `cannot be loaded: ${error instanceof Error ? error.message : String(error)}`,
  );

/** A typing error must not go unnoticed, so a schema that would drop what it does not know refuses it. */
const strict = (schema: z.ZodType): z.ZodType =>
  schema instanceof z.ZodObject && schema.def.catchall === undefined ? schema.strict() : schema;

/** For faults that zod's own words would not explain. */
const WORDS = {
  error: (issue: z.core.$ZodRawIssue): string | undefined =>
    issue.code === 'invalid_type' && issue.input === undefined ? 'is missing' : undefined,
};

type Issues = readonly z.core.$ZodIssue[];

const faultsOf = (issues: Issues, prefix: readonly PropertyKey[], yaml: PositionedYaml): ConfigFault[] =>
  issues.flatMap((issue): ConfigFault[] => {
    const path = [...prefix, ...issue.path];
    if (issue.code === 'unrecognized_keys') {
      return issue.keys.map((name) => ({
        path: [...path, name],
        at: yaml.positionOfName(path, name),
        detail: 'is not known here',
      }));
    }
    if (issue.code === 'invalid_key') {
      const at = yaml.positionOfName(path.slice(0, -1), String(path.at(-1)));
      return [{ path, at, detail: issue.issues[0]?.message ?? issue.message }];
    }
    // Of several shapes the one that is right as far as it goes is meant.
    const meant =
      issue.code === 'invalid_union' &&
      issue.errors.find((branch) => branch.every((one) => one.path.length > 0));
    if (meant) return faultsOf(meant, path, yaml);
    return [{ path, at: yaml.positionOf(path), detail: issue.message }];
  });

function invalid(file: string | undefined, found: readonly ConfigFault[]): AbideError {
  const order = ({ at }: ConfigFault): number => (at === undefined ? Infinity : at.line * 1e6 + at.column);
  const faults = [...found].sort((a, b) => (order(a) < order(b) ? -1 : order(a) > order(b) ? 1 : 0));
  const said = faults.map(({ path, at, detail }) => {
    const where = at === undefined ? '' : `line ${at.line}, column ${at.column}: `;
    return `${where}${path.length === 0 ? '' : `${path.map(String).join('.')} `}${detail}`;
  });
  return new AbideError(
    'CONFIG_INVALID',
    `${file ?? 'The configuration'} is wrong:\n  ${said.join('\n  ')}`,
    {
      errors: faults.map(({ path, detail }) => ({ pointer: pointerTo(path), detail })),
    },
  );
}

const pointerTo = (path: readonly PropertyKey[]): string =>
  path.map((part) => `/${String(part).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
