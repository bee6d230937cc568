// One line per version, the oldest first. A new version is a folder beside v1/ and a line here. A deprecated one has `deprecatedAt`
// and `link` in its line, and `sunsetAt` once its end is set. A retired one has no resources any more.
import type { Operation } from './operation.ts';
import { addAcknowledgements } from './v1/acknowledgements.ts';
import { addChecks } from './v1/checks.ts';
import { addGate } from './v1/gate.ts';
import { addOptOuts } from './v1/opt-outs.ts';
import { addPropagationLagEvents } from './v1/propagation-lag-events.ts';
import { addPropagationLag } from './v1/propagation-lag.ts';
import { addPropagation } from './v1/propagation.ts';
import { addQuarantine } from './v1/quarantine.ts';
import { addReconciliation } from './v1/reconciliation.ts';
import { addSubjects } from './v1/subjects.ts';
import { addImports } from './v2/imports.ts';
import { operationsIn } from './version.ts';
import type { Versions } from './version.ts';
import { addChecks as addChecksV2 } from './v2/checks.ts';
import { addGrants } from './v2/grants.ts';
import { addOptOuts as addOptOutsV2 } from './v2/opt-outs.ts';
import { addPropagation as addPropagationV2 } from './v2/propagation.ts';
import { addReceipts } from './v2/receipts.ts';
import { addSubjects as addSubjectsV2 } from './v2/subjects.ts';

export const VERSIONS: Versions = {
  v1: {
    resources: [
      addOptOuts,
      addPropagation,
      addSubjects,
      addChecks,
      addPropagationLag,
      addPropagationLagEvents,
      addGate,
      addQuarantine,
      addReconciliation,
      addAcknowledgements,
    ],
  },
  v2: {
    resources: [
      addOptOutsV2,
      addPropagationV2,
      addReceipts,
      addSubjectsV2,
      addGrants,
      addImports,
      addChecksV2,
    ],
  },
};

export const operationsOf = (name: string): Operation[] => operationsIn(VERSIONS[name]!);
