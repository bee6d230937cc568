// The examples of v1 as a story: what must have happened before each answer is as it stands there.
import { SEQ, SUBJECT_ID } from '../../../api/v1/acknowledgements.ts';
import { outstandingOf, report, verified } from '../../harness/ledger.ts';
import type { TellExamples } from '../public/replay-examples.ts';

export const tellExamples: TellExamples = async ({ replay, real, ledger }) => {
  // Nobody has heard of a worker yet.
  await replay('getPropagationLag', 'failing');
  await replay('createOptOut');
  const [decision, other] = await outstandingOf(ledger, 'crm');
  real.set(SUBJECT_ID, decision!.subjectId).set(String(SEQ), String(decision!.seq));
  await replay('listOutstanding');
  await replay('getNewestDecision');
  await replay('getTransportKey');
  await replay('acknowledge');
  await replay('getPropagationLag', 'now');
  await replay('followPropagationLag');
  await replay('getCanary');
  await replay('getPropagation');
  await replay('getOptOut');
  await replay('listOptOuts');
  await replay('lookUpSubject');
  await replay('check');
  await replay('getGate');

  await replay('beginReconciliation');
  await replay('listReconciliations');
  await replay('getReconciliationPage');
  await replay('reportReconciliationPage');
  await replay('getListingPage');
  await replay('reportListingPage');

  const refused = verified(other!, { outcome: 'refused', code: 'TOO_LONG' });
  await ledger.acknowledge('crm', report([refused]));
  real.set(String(SEQ), String(other!.seq));
  await replay('listQuarantine');
  await replay('getQuarantined');
  await replay('retryQuarantined');
};
