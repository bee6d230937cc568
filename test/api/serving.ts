// The API over the ledger that only answers (stub-ledger.ts), behind the real listener.
import type { Ledger } from '../../ledger/ledger.ts';
import { createApp } from '../../api/app.ts';
import { listen } from '../../api/server.ts';
import type { Listening } from '../../api/server.ts';
import { createSend } from '../harness/http.ts';
import type { Send } from '../harness/http.ts';
import { stubLedger } from './stub-ledger.ts';
import type { StubLedger } from './stub-ledger.ts';

export type ServedStub = AsyncDisposable & {
  readonly ledger: StubLedger;
  readonly send: Send;
  readonly port: number;
  readonly listening: Listening;
  /** The listener of health and metrics, where it is one of its own. */
  readonly sendOps: Send;
  /** What was logged, with everything that a log line would show of it. */
  readonly log: { level: 'warn' | 'error'; fields: object; message: string }[];
};

export async function serveStub(
  instead: Partial<Ledger> = {},
  {
    limits = {},
    ...options
  }: Partial<Pick<Parameters<typeof createApp>[0], 'defaultRegion' | 'opsOnSameListener' | 'isReady'>> & {
    limits?: Parameters<typeof listen>[2];
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
  const listening = await listen(app.handler, anywhere, limits);
  const ops = app.opsHandler === undefined ? undefined : await listen(app.opsHandler, anywhere);
  return {
    ledger,
    send: createSend(listening.url),
    port: listening.port,
    listening,
    sendOps: createSend((ops ?? listening).url),
    log,
    [Symbol.asyncDispose]: async () => {
      await Promise.all([listening.close(), ops?.close()]);
    },
  };
}
