import type { Command } from 'commander';
import { checkStores } from '../processes/check-stores.ts';
import { readConfiguration } from '../processes/running-database.ts';
import { EXIT, print, printJson } from './output.ts';

export function addConfig(program: Command): void {
  program
    .command('config')
    .description('The configuration')
    .command('check')
    .description('Read abide.yaml, then open every store and read from it. Changes nothing.')
    .option('--config <file>', 'abide.yaml (ABIDE_CONFIG)')
    .option('--offline', 'only read the file; reach no store')
    .option('--json', 'print JSON')
    .action(async (options: { config?: string; offline?: boolean; json?: boolean }) => {
      const configuration = await readConfiguration(options.config);
      const results = options.offline === true ? [] : await checkStores(configuration.stores);
      if (options.json === true)
        printJson({ stores: configuration.stores.map(({ name }) => name), checked: results });
      else {
        print(`configuration: fine, ${configuration.stores.length} store(s)`);
        for (const { store, problem } of results) print(`${store}: ${problem ?? 'opened and read'}`);
      }
      if (results.some(({ problem }) => problem !== undefined)) process.exitCode = EXIT.no;
    });
}
