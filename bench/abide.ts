// Load for the Abide of a benchmark, which is a process as a user would run it (test/harness/abide.ts).
import type pg from 'pg';
import { Pool } from 'undici';
import { runAbide } from '../test/harness/abide.ts';
import type { AbideProcess } from '../test/harness/abide.ts';

let made = 0;
/** An address that nobody had before in this run. */
export const freshEmail = (): string => `p${process.pid}-${(made += 1)}@example.com`;

export const optOutBody = (): string =>
  JSON.stringify({ subject: { email: freshEmail() }, idempotency_key: `bench-${process.pid}-${made}` });

/** More than an open loop ever has under way: a request that waited for a connection would show the load's own limit. */
export const UNLIMITED = 1_000;

/** A keep-alive client for one API, which opens as many connections as it has requests under way, up to `connections`. */
export function createPoster(abide: Pick<AbideProcess, 'url' | 'key'>, connections: number) {
  const pool = new Pool(abide.url, { connections, pipelining: 1 });
  const headers = { authorization: `Bearer ${abide.key}`, 'content-type': 'application/json' };
  return {
    post: async (
      path: string,
      body: string,
      extra: object = {},
    ): Promise<{ status: number; text: string }> => {
      const answer = await pool.request({ method: 'POST', path, headers: { ...headers, ...extra }, body });
      return { status: answer.statusCode, text: await answer.body.text() };
    },
    get: async (path: string): Promise<unknown> => {
      const answer = await pool.request({ method: 'GET', path, headers });
      return await answer.body.json();
    },
    close: () => pool.close(),
  };
}

/** Posts at a fixed rate however long the answers take, so that a stall shows in the figures instead of hiding in them. */
export async function postOpenLoop(
  post: (body: string) => Promise<{ status: number }>,
  perSecond: number,
  seconds: number,
): Promise<void> {
  const total = perSecond * seconds;
  const began = performance.now();
  const answers: Promise<void>[] = [];
  for (let sent = 0; sent < total;) {
    const due = Math.min(total, Math.floor(((performance.now() - began) / 1000) * perSecond) + 1);
    for (; sent < due; sent += 1) {
      answers.push(
        post(optOutBody()).then(({ status }) => {
          if (status !== 201) throw new Error(`POST answered ${status}`);
        }),
      );
    }
    // Not more often than that: the load shares two cores with what is measured.
    await new Promise((resolve) => setTimeout(resolve, 1000 / perSecond));
  }
  await Promise.all(answers);
}

/** Retires the store that every new folder has: its worker would take its share of two cores. */
export async function retireCrm(abide: AbideProcess): Promise<void> {
  const { code, output } = await runAbide([
    'stores',
    'retire',
    'crm',
    '--reason',
    'benchmark',
    '--data',
    abide.dataFolder,
  ]);
  if (code !== 0) throw new Error(output);
}

/** The newest decision's sequence number; 0 if there is none. */
export const lastSeq = async (db: pg.Client): Promise<number> =>
  Number(
    (await db.query<{ seq: string }>('select coalesce(max(seq), 0) as seq from decisions')).rows[0]!.seq,
  );
