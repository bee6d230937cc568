import type { Command } from 'commander';
import { environmentOf, ofInstallation } from './installation.ts';
import type { Installation } from './installation.ts';
import { EXIT, print, printJson } from './output.ts';

export function addConfig(program: Command): void {
  const config = program.command('config').description('The configuration');
  ofInstallation(config.command('check'))
    .description(
      'Read abide.yaml, then try every store: its own statements too, taken back. Changes nothing.',
    )
    .option('--offline', 'only read the file; reach no store')
    .option('--json', 'print JSON')
    .action(async (options: Installation & { offline?: boolean; json?: boolean }) => {
      const [{ readConfiguration }, { checkStores }] = await Promise.all([
        import('../processes/running-database.ts'),
        import('../processes/check-stores.ts'),
      ]);
      const configuration = await readConfiguration(environmentOf(options));
      const results = options.offline === true ? [] : await checkStores(configuration.stores);
      if (options.json === true)
        printJson({ stores: configuration.stores.map(({ name }) => name), checked: results });
      else {
        print(`configuration: fine, ${configuration.stores.length} store(s)`);
        for (const { store, problem, note } of results)
          print(`${store}: ${problem ?? 'fine'}${note === undefined ? '' : `; ${note}`}`);
      }
      if (results.some(({ problem }) => problem !== undefined)) process.exitCode = EXIT.no;
    });
}
