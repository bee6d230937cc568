// The API behind its real listener: over a ledger that only answers (stub-ledger.ts), or over the real one.
import type { DeclaredScopes } from '../../suppression/scope.ts';
import { createApp } from '../../api/app.ts';
import { listen } from '../../api/server.ts';
import type { Listening } from '../../api/server.ts';
import { KEY_SCOPES } from '../../ledger/contract/api-keys.ts';
import type { KeyLimits } from '../../ledger/contract/api-keys.ts';
import type { Ledger } from '../../ledger/contract/ledger.ts';
import { createSend } from '../harness/http.ts';
import type { Send } from '../harness/http.ts';
import { serveLedger } from '../harness/served-ledger.ts';
import type { ServedLedger } from '../harness/served-ledger.ts';
import { stubLedger } from './stub-ledger.ts';
import type { StubLedger } from './stub-ledger.ts';

export type ServedStub = AsyncDisposable & {
  readonly ledger: StubLedger;
  readonly send: Send;
  readonly port: number;
  readonly listening: Listening;
  /** The listener of health and metrics, if it is one of its own. */
  readonly sendOps: Send;
  /** What was logged, with everything that a log line would show of it. */
  readonly log: { level: 'warn' | 'error'; fields: object; message: string }[];
};

export async function serveStub(
  instead: Partial<Ledger> = {},
  {
    bounds = {},
    ...options
  }: Partial<
    Pick<
      Parameters<typeof createApp>[0],
      | 'defaultRegion'
      | 'opsOnSameListener'
      | 'isReady'
      | 'versions'
      | 'security'
      | 'limits'
      | 'now'
      | 'rooms'
      | 'bodyBytes'
    >
  > & {
    /** Bounds of the listener. */
    bounds?: Parameters<typeof listen>[2];
  } = {},
): Promise<ServedStub> {
  const ledger = stubLedger(instead);
  const log: ServedStub['log'] = [];
  const add = (level: 'warn' | 'error') => (fields: object, message: string) =>
    void log.push({ level, fields, message });
  const app = createApp({
    ledger,
    log: { warn: add('warn'), error: add('error') },
    opsOnSameListener: true,
    ...options,
  });
  const anywhere = { host: '127.0.0.1', port: 0 };
  const listening = await listen(app.handler, anywhere, bounds);
  const ops = app.opsHandler === undefined ? undefined : await listen(app.opsHandler, anywhere);
  return {
    ledger,
    send: createSend(listening.url),
    port: listening.port,
    listening,
    sendOps: ops === undefined ? createSend(listening.url) : createSend(ops.url, () => undefined),
    log,
    [Symbol.asyncDispose]: async () => {
      await Promise.all([listening.close(), ops?.close()]);
    },
  };
}

export type ServedToClients = AsyncDisposable &
  Pick<ServedLedger, 't' | 'url' | 'port' | 'workerKey'> & {
    readonly send: Send;
    /** A key of client `shop`, with every scope of a client. */
    readonly key: string;
    makeKey(fields: {
      client?: string;
      scopes?: readonly string[];
      expiresAt?: string;
      limits?: KeyLimits;
    }): Promise<{ id: string; token: string }>;
    /** The same API once more, as another process would serve it. */
    serve(ledger: Ledger): Promise<Send>;
  };

const NOT_OF_CLIENTS: readonly string[] = ['opt_outs:read_all', 'imports:approve', 'acknowledgements:write'];
export const CLIENT_SCOPES = KEY_SCOPES.filter((scope) => !NOT_OF_CLIENTS.includes(scope));

export async function serveToClients({
  declared,
}: { declared?: DeclaredScopes } = {}): Promise<ServedToClients> {
  const stack = new AsyncDisposableStack();
  const { t, url, port, workerKey } = stack.use(await serveLedger({}, { declared }));
  const makeKey: ServedToClients['makeKey'] = async ({
    client = 'shop',
    scopes = CLIENT_SCOPES,
    expiresAt,
    limits,
  }) => {
    const fields = { client, scopes, store: undefined, expiresAt, limits, caller: undefined };
    const { key, token } = await t.ledger.createKey(fields);
    return { id: key.id, token };
  };
  return {
    t,
    url,
    port,
    workerKey,
    send: createSend(url),
    key: (await makeKey({})).token,
    makeKey,
    serve: async (ledger) => {
      const log = { warn: () => undefined, error: () => undefined };
      const { handler } = createApp({ ledger, log, declared, opsOnSameListener: true });
      const listening = await listen(handler, { host: '127.0.0.1', port: 0 });
      stack.defer(() => listening.close());
      return createSend(listening.url);
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}
