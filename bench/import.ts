// (i) A file of 1,000,000 opt-outs, from its first byte sent to its last row recorded, beside psql's `\copy` of the very rows
// that it became, into tables with the same indexes on the same server; and the process' memory with a quarter of the rows
// and with all. The peer is spared what the file is for: reading, checking, normal forms, sealing, the fold, the audit.
import { execFile } from 'node:child_process';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { print, printTable } from '../cli/output.ts';
import { createAbide } from '../client/client.ts';
import { startAbide } from '../test/harness/abide.ts';
import type { AbideProcess } from '../test/harness/abide.ts';
import { count, judge, times } from './measure.ts';

const ROWS = 1_000_000;
/** Only registered: no worker runs. */
const STORE = `stores:\n  crm: { connector: redis, url: 'redis://127.0.0.1:6379', prefix: 'bench:', scopes: [email] }\n`;
/** What a row of a file becomes. */
const TABLES = ['decisions', 'opt_outs', 'opt_out_subjects', 'subjects'];
const mib = (bytes: number): string => `${Math.round(bytes / 1024 ** 2)} MiB`;

async function writeFile(path: string, rows: number): Promise<void> {
  const lines = function* (): Generator<string> {
    yield 'email\n';
    for (let from = 0; from < rows; from += 1_000)
      yield Array.from({ length: 1_000 }, (_, n) => `p${from + n}@example.com\n`).join('');
  };
  await pipeline(Readable.from(lines()), createWriteStream(path));
}

/** Seconds until the file is kept, and until it is recorded. */
async function importFile(
  { url, key }: Pick<AbideProcess, 'url' | 'key'>,
  path: string,
  rows: number,
): Promise<{ kept: number; recorded: number }> {
  const { imports } = createAbide({ url, key, timeoutMs: 600_000, tryTimeoutMs: 600_000 });
  const began = performance.now();
  const since = (): number => (performance.now() - began) / 1000;
  const { id } = await imports.create(() => createReadStream(path), { format: 'csv', scopes: ['email'] });
  const kept = since();
  const { counts } = await imports.waitUntilDone(id);
  if (counts.recorded !== rows) throw new Error(`${counts.recorded} of ${rows} rows are recorded`);
  return { kept, recorded: since() };
}

const psql = async (url: string, ...commands: readonly string[]): Promise<void> => {
  await promisify(execFile)('psql', [
    ...['-X', '-q', '-v', 'ON_ERROR_STOP=1'],
    ...commands.flatMap((command) => ['-c', command]),
    url,
  ]);
};

/** Seconds that `\copy` takes for each table. */
async function copyAgain(abide: AbideProcess, folder: string): Promise<number[]> {
  const url = abide.databaseUrl('abide');
  const seconds: number[] = [];
  await psql(url, 'create schema peer');
  for (const table of TABLES) {
    const file = join(folder, `${table}.copy`);
    await psql(
      url,
      `\\copy ${table} to '${file}'`,
      `create table peer.${table} (like ${table} including all)`,
      'checkpoint',
    );
    const began = performance.now();
    await psql(url, `\\copy peer.${table} from '${file}'`);
    seconds.push((performance.now() - began) / 1000);
    await rm(file);
  }
  return seconds;
}

export async function benchImport(): Promise<void> {
  print(
    `\n(i) Import of ${count(ROWS)} rows beside \\copy of what they become, and the process' peak memory\n`,
  );
  const folder = await mkdtemp(join(tmpdir(), 'abide-bench-'));
  const peaks: number[] = [];
  try {
    for (const rows of [ROWS / 4, ROWS]) {
      const path = join(folder, 'opt-outs.csv');
      await writeFile(path, rows);
      await using abide = await startAbide({
        config: `imports: { approve_above_rows: ${ROWS} }\n${STORE}`,
        args: ['--no-workers'],
      });
      const { kept, recorded } = await importFile(abide, path, rows);
      const peak = await abide.peakMemory();
      peaks.push(peak);
      print(
        `${count(rows)} rows: received in ${kept.toFixed(1)} s, recorded after ${recorded.toFixed(1)} s, ` +
          `${count(rows / recorded)} rows/s, peak memory ${mib(peak)}`,
      );
      if (rows < ROWS) continue;
      const seconds = await copyAgain(abide, folder);
      const copied = seconds.reduce((sum, one) => sum + one, 0);
      print('');
      printTable(
        ['', 'SECONDS', 'ROWS/s'],
        [
          ...TABLES.map((table, n) => [`\\copy ${table}`, seconds[n]!.toFixed(1), count(rows / seconds[n]!)]),
          ['\\copy of all four', copied.toFixed(1), count(rows / copied)],
          ['import', recorded.toFixed(1), count(rows / recorded)],
        ],
      );
      print(`\nan import is ${times(copied / recorded)} as fast\n`);
      judge('as fast as \\copy', copied / recorded, { atLeast: 0.5 }, ' ×');
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  judge('peak memory, four times the rows', peaks[1]! / peaks[0]!, { atMost: 1.25 }, ' ×');
}
