// (a) Opt-outs per second over HTTP, beside pgbench running the same transaction singly with as many clients.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { print, printTable } from '../cli/output.ts';
import { startAbide } from '../test/harness/abide.ts';
import { optOutBody } from './abide.ts';
import type { AbideProcess } from '../test/harness/abide.ts';
import { postsPerSecond } from './load.ts';
import { openTokenIssuer } from './token-issuer.ts';
import { alternate, count, judge, ms, times } from './measure.ts';

const CLIENTS = [1, 8, 32, 128];
const SECONDS = 5;
const ROUNDS = 3;
/** Only registered: no worker runs. */
const STORE = `stores:\n  crm: { connector: redis, url: 'redis://127.0.0.1:6379', prefix: 'bench:', scopes: [email, sms, push] }\n`;
const SCRIPT = fileURLToPath(new URL('record.pgbench.sql', import.meta.url));

const postPerSecond = (
  abide: Pick<AbideProcess, 'url' | 'key'>,
  connections: number,
  seconds: number,
): Promise<number> => postsPerSecond(abide, { connections, seconds, body: optOutBody });

async function pgbenchPerSecond(url: string, clients: number, seconds: number): Promise<number> {
  const { stdout } = await promisify(execFile)('pgbench', [
    ...['-n', '-M', 'prepared', '-f', SCRIPT, '-c', String(clients), '-j', '1', '-T', String(seconds)],
    url,
  ]);
  return Number(/tps = ([\d.]+)/.exec(stdout)?.[1]);
}

/** Medians of both, for each number of clients. */
export async function measureRecording(
  abide: AbideProcess,
  clientCounts: readonly number[] = CLIENTS,
  rounds = ROUNDS,
): Promise<{ clients: number; abide: number; pgbench: number }[]> {
  await postPerSecond(abide, 32, 3);
  const figures = [];
  for (const clients of clientCounts) {
    const medians = await alternate(rounds, {
      abide: () => postPerSecond(abide, clients, SECONDS),
      pgbench: () => pgbenchPerSecond(abide.databaseUrl('abide'), clients, SECONDS),
    });
    figures.push({ clients, ...medians });
  }
  return figures;
}

export async function benchRecord(): Promise<void> {
  print(
    `\n(a) Recording, opt-outs a second: HTTP beside pgbench -M prepared, ${ROUNDS} rounds of ${SECONDS} s each\n`,
  );
  await using issuer = await openTokenIssuer();
  await using abide = await startAbide({ config: `${issuer.config}${STORE}`, args: ['--no-workers'] });
  const figures = await measureRecording(abide);
  printTable(
    ['CLIENTS', 'ABIDE /s', 'PGBENCH /s', 'RATIO', 'ABIDE each', 'PGBENCH each'],
    figures.map((one) => [
      String(one.clients),
      count(one.abide),
      count(one.pgbench),
      times(one.abide / one.pgbench),
      ms((1000 * one.clients) / one.abide),
      ms((1000 * one.clients) / one.pgbench),
    ]),
  );
  const who = await alternate(ROUNDS, {
    key: () => postPerSecond(abide, 32, SECONDS),
    token: () => postPerSecond({ url: abide.url, key: issuer.token }, 32, SECONDS),
  });
  print(`\nwith an API key ${count(who.key)}/s, with an access token (JWT, ES256) ${count(who.token)}/s\n`);
  const at = (clients: number) => figures.find((one) => one.clients === clients)!;
  judge('at 32 clients, times pgbench', at(32).abide / at(32).pgbench, { atLeast: 1.5 });
  judge(
    'at 1 client, more than pgbench by',
    1000 / at(1).abide - 1000 / at(1).pgbench,
    { atMost: 2.5 },
    ' ms',
  );
}
