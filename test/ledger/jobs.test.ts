import { expect, test } from '@jest/globals';
import { repeatJobs } from '../../ledger/jobs.ts';

/** A job that does what `runs` say, one after the other, and after the last of them ends everything. */
async function repeated(runs: readonly (() => Promise<void>)[]): Promise<string[]> {
  const said: string[] = [];
  const log = {
    info: (_: object, message: string): void => void said.push(message),
    warn: (_: object, message: string): void => void said.push(message),
  };
  const ending = new AbortController();
  const left = [...runs];
  const run = async (): Promise<void> => {
    const next = left.shift()!;
    if (left.length === 0) ending.abort();
    await next();
  };
  await repeatJobs([{ name: 'watermark', pauseMs: 1, run }], { log, signal: ending.signal });
  return said;
}
const works = async (): Promise<void> => Promise.resolve();
const fails = async (): Promise<void> => Promise.reject(new Error('the database is away'));

test('a job that fails is tried again; the log says so once, and once that it works again', async () => {
  expect(await repeated([works, fails, fails, fails, works, works, fails])).toEqual([
    'ledger job failed, will try again',
    'ledger job works again',
    'ledger job failed, will try again',
  ]);
});

test('one that hangs or fails holds up no other, and all have ended when it is over', async () => {
  const ending = new AbortController();
  const hanging = Promise.withResolvers<undefined>();
  let [ran, isOver] = [0, false];
  const log = { info: () => undefined, warn: () => undefined };
  const repeating = repeatJobs(
    [
      { name: 'registry', pauseMs: 1, run: () => hanging.promise },
      {
        name: 'watermark',
        pauseMs: 1,
        run: async () => {
          ran += 1;
          if (ran === 3) ending.abort();
          return fails();
        },
      },
    ],
    { log, signal: ending.signal },
  ).then(() => {
    isOver = true;
  });
  await new Promise((resolve) => ending.signal.addEventListener('abort', resolve));
  await new Promise((resolve) => setImmediate(resolve));
  expect([ran, isOver]).toEqual([3, false]);

  hanging.resolve(undefined);
  await repeating;
});
