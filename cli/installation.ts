// Which installation a command is about: that of `--config` and `--data`, else of ABIDE_CONFIG and ABIDE_DATA.
import type { Command } from 'commander';

export type Installation = { readonly config?: string; readonly data?: string };

export const ofInstallation = (command: Command): Command =>
  command
    .option('--config <file>', 'abide.yaml (ABIDE_CONFIG; default ./abide.yaml, if there is one)')
    .option('--data <folder>', 'the data folder (ABIDE_DATA; default .abide)');

/** The environment in which the options are the variables' values. */
export const environmentOf = ({
  config,
  data,
}: Installation): Readonly<Record<string, string | undefined>> => ({
  ...process.env,
  ...(config === undefined ? {} : { ABIDE_CONFIG: config }),
  ...(data === undefined ? {} : { ABIDE_DATA: data }),
});
