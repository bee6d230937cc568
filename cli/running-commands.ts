// serve, worker and demo: what runs until it is told to stop.
import type { Command } from 'commander';
import closeWithGrace from 'close-with-grace';
import { dataFolderOf } from '../config/data-folder.ts';
import { runDemo } from '../processes/demo.ts';
import { createLog } from '../processes/log.ts';
import { serve } from '../processes/serve.ts';
import { runWorker } from '../processes/worker.ts';
import { AbideError } from '../suppression/errors.ts';
import { fail, print } from './output.ts';

const STOP_MS_MAX = 30_000;

export const logOf = () => createLog(process.env.ABIDE_LOG ?? 'warn');

/**
 * Stops once, cleanly, on SIGINT, SIGTERM or an error nobody caught; a second signal ends at once. Called before the start
 * is awaited: a signal in between would leave the database that was just started behind.
 */
export function stopOnSignal(
  starting: Promise<{ stop(): Promise<void> }>,
  /** Ends a start that would take long by itself. */
  hurry: () => void = () => undefined,
): void {
  closeWithGrace({ delay: STOP_MS_MAX, logger: false }, async ({ signal, err }) => {
    if (err !== undefined) process.stderr.write(`abide: ${err.message}\n`);
    else print(`${signal ?? 'close'}: stopping, what is under way is finished first`);
    hurry();
    // A start that failed has stopped what it had started, and says why itself.
    const running = await starting.catch(() => undefined);
    await running?.stop();
    print('stopped');
  });
}

export function addServe(program: Command): void {
  program
    .command('serve')
    .description(
      'Run everything in this process: database (unless one is configured), API, and a worker a store',
    )
    .option('--config <file>', 'abide.yaml (ABIDE_CONFIG)')
    .option('--data <folder>', 'the data folder (ABIDE_DATA; default .abide)')
    .option('--no-workers', 'the API alone; workers run elsewhere as `abide worker`')
    .action(async (options: { config?: string; data?: string; workers: boolean }) => {
      const began = performance.now();
      const dataFolder = options.data ?? dataFolderOf(process.env);
      print('abide: starting (data in ' + dataFolder + ')');
      const starting = serve({
        configPath: options.config,
        dataFolder,
        env: process.env,
        workers: options.workers,
        log: logOf(),
        print,
      });
      stopOnSignal(starting);
      const serving = await starting;
      print(`abide: ready at ${serving.url} after ${((performance.now() - began) / 1000).toFixed(1)} s`);
      if (serving.adminKey === undefined) return;
      print(`
administrator's key: ${serving.adminKey}

Record an opt-out (paste this):

  curl -s ${serving.url}/v1/opt-outs -H 'Authorization: Bearer ${serving.adminKey}' -H 'Content-Type: application/json' -H 'Prefer: wait=5' -d '{"subject":{"email":"ada@example.com"}}'
`);
    });
}

export function addWorker(program: Command): void {
  program
    .command('worker')
    .description("Carry decisions to one store, reaching nothing of Abide's but the API over HTTP")
    .requiredOption('--store <name>', 'the store, as abide.yaml names it')
    .option('--config <file>', 'abide.yaml with the store (ABIDE_CONFIG)')
    .option('--url <url>', 'where the API is (ABIDE_URL; default http://127.0.0.1:8080)')
    .option(
      '--key <key>',
      "the worker's key (ABIDE_KEY), made by `abide keys create --client crm-worker --store crm`",
    )
    .action(async (options: { store: string; config?: string; url?: string; key?: string }) => {
      const apiKey = options.key ?? process.env.ABIDE_KEY;
      if (apiKey === undefined) {
        throw new AbideError(
          'unauthenticated',
          'A worker needs its key: ABIDE_KEY, made by `abide keys create --store`.',
        );
      }
      const apiUrl = options.url ?? process.env.ABIDE_URL ?? 'http://127.0.0.1:8080';
      const starting = runWorker({
        store: options.store,
        apiUrl,
        apiKey,
        configPath: options.config,
        env: process.env,
        log: logOf(),
        // What was not answered for is read again by the next process, and the ledger gives out the rest.
        onCrash: fail,
      });
      stopOnSignal(starting);
      await starting;
      print(`abide: carrying decisions from ${apiUrl} to ${options.store}`);
    });
}

export function addDemo(program: Command): void {
  program
    .command('demo')
    .description(
      'Half a minute: an opt-out arrives, the store is taken away, the lag shows it, the store comes back',
    )
    .action(async () => {
      await runDemo({ print, log: createLog(process.env.ABIDE_LOG ?? 'silent') });
    });
}
