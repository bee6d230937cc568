// `npm run stack`: everything over Kafka, on this machine, without containers.
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { dataFolderOf } from '../config/data-folder.ts';
import { reachable } from './api-client.ts';
import { EXIT, print, printJson, printTable } from './output.ts';
import { logOf, stopOnSignal } from './running-commands.ts';

type Options = { config?: string; data?: string; json?: boolean };
const folderOf = ({ data }: Options): string => data ?? dataFolderOf(process.env);
/** The path as a shell reads it. */
const quoted = (path: string): string =>
  /^[\w.:/-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`;

export function addStack(program: Command): void {
  const stack = program
    .command('stack')
    .description(
      'PostgreSQL, Kafka, Connect with Debezium, schema registry, API, and one worker per store, as local processes',
    );
  const withData = (name: string, description: string, isDefault = false): Command =>
    stack
      .command(name, { isDefault })
      .description(description)
      .option('--data <folder>', 'the data folder (ABIDE_DATA; default .abide)');

  withData('start', 'Run all of it until Ctrl-C (needs a JDK 17 or later and, the first time, Maven)', true)
    .option(
      '--config <file>',
      'abide.yaml with the stores (ABIDE_CONFIG), carried over Kafka whatever its source',
    )
    .action(async (options: Options) => {
      const began = performance.now();
      const dataFolder = folderOf(options);
      print(`abide: starting the stack (data in ${dataFolder})`);
      const stopping = new AbortController();
      const { runStack } = await import('../processes/stack/run-stack.ts');
      const starting = runStack({
        configPath: options.config,
        dataFolder,
        env: process.env,
        log: logOf(),
        print,
        signal: stopping.signal,
      });
      stopOnSignal(starting, () => stopping.abort());
      const started = await starting.catch((error: unknown) => {
        if (!stopping.signal.aborted) throw error;
      });
      // It was told to stop before it was ready, and has said that it did.
      if (started === undefined) return;
      const { url, ports, configFile } = started;
      print(
        `abide: the stack is ready after ${((performance.now() - began) / 1000).toFixed(1)} s ` +
          `(Kafka 127.0.0.1:${ports.broker}, Connect :${ports.connect}, registry :${ports.registry})`,
      );
      print(
        `abide: for other commands: export ABIDE_CONFIG=${quoted(configFile)} ABIDE_DATA=${quoted(resolve(dataFolder))} ABIDE_URL=${quoted(reachable(url))}`,
      );
    });

  withData('prepare', 'Migrate, make keys and topics, register the connector, and wait until its task runs')
    .option('--config <file>', 'abide.yaml with source: kafka and a database (ABIDE_CONFIG)')
    .option(
      '--worker-keys <folder>',
      "where each worker's key is put (default stack/keys in the data folder)",
    )
    .action(async (options: Options & { workerKeys?: string }) => {
      const { prepareStack } = await import('../processes/stack/prepare-stack.ts');
      const dataFolder = folderOf(options);
      await prepareStack({
        configPath: options.config,
        dataFolder,
        workerKeys: options.workerKeys ?? join(dataFolder, 'stack/keys'),
        env: process.env,
        log: logOf(),
        print,
      });
    });

  withData('status', 'What runs, where, and whether the task does')
    .option('--json', 'print JSON')
    .action(async (options: Options) => {
      const { stackStatus } = await import('../processes/stack/running-stack.ts');
      const status = await stackStatus(folderOf(options));
      if (options.json === true) printJson(status);
      else if (status.programs.length === 0) print('no stack runs on this data folder');
      else {
        printTable(
          ['program', 'process', 'port', 'log'],
          status.programs.map(({ name, pid, port, log }) => [
            name,
            String(pid),
            port === undefined ? '-' : String(port),
            log ?? '-',
          ]),
        );
        print(`task: ${status.task}`);
      }
      if (status.task !== 'running') process.exitCode = EXIT.no;
    });

  withData('stop', 'Stop the stack of this data folder, or what a killed one left running').action(
    async (options: Options) => {
      const { stopStack } = await import('../processes/stack/running-stack.ts');
      const ended = await stopStack(folderOf(options));
      print(ended.length === 0 ? 'no stack runs on this data folder' : `stopped: ${ended.join(', ')}`);
    },
  );

  withData(
    'reset',
    'Forget topics, offsets and schemas. The ledger stays and drives what stores lack',
  ).action(async (options: Options) => {
    const { resetStack } = await import('../processes/stack/run-stack.ts');
    const wasThere = await resetStack(folderOf(options));
    print(
      wasThere
        ? 'topics, offsets and schemas are gone; the ledger is as it was'
        : 'there is nothing of a stack on this data folder',
    );
  });
}
