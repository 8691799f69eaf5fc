// Open a study in OHIF, load its SEG and its SR, and write down what the running viewer holds.
// node view.mjs BASE_URL STUDY_UID OUT_FOLDER ; playwright-core is found from $PLAYWRIGHT_FROM.
import { createRequire } from 'node:module';
import { writeFileSync } from 'node:fs';

const { chromium } = createRequire(`${process.env.PLAYWRIGHT_FROM}/`)('playwright-core');
const [base, study, out] = process.argv.slice(2);
const FLAGS = [
  '--no-sandbox', '--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist',
  '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
];
const seen = { errors: [], segmentations: [], report: null };

const context = await chromium.launchPersistentContext(`${out}/profile`, {
  executablePath: process.env.CHROMIUM, headless: true, args: FLAGS, viewport: { width: 1400, height: 900 },
});
const page = context.pages()[0] ?? (await context.newPage());
page.setDefaultTimeout(90000);
page.on('pageerror', (error) => seen.errors.push(String(error)));

const shoot = (name) => page.screenshot({ path: `${out}/${name}.png` });
const thumbnail = (modality) => page.locator(`[data-cy="study-browser-thumbnail-no-image"]`, { hasText: modality }).first();
const click = async (text) => {
  const button = page.getByRole('button', { name: text, exact: true }).first();
  if (await button.isVisible().catch(() => false)) await button.click({ timeout: 5000 }).catch(() => {});
};

async function load() {
  await page.goto(`${base}/viewer?StudyInstanceUIDs=${study}`);
  await page.waitForFunction(() => window.services?.displaySetService?.getActiveDisplaySets().length > 0);
  await page.getByText('Skip all').first().click({ timeout: 20000 }).catch(() => {});
  await click('Confirm and hide');
}

// Every voxel of every labelmap, slice by slice, with the position of the image it lies on.
function labelmaps() {
  const { segmentationService } = window.services;
  const { cache, metaData } = window.cornerstone;
  const base64 = (bytes) => {
    let text = '';
    for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
    return btoa(text);
  };
  return segmentationService.getSegmentations().map((segmentation) => {
    const labelmap = segmentation.representationData.Labelmap;
    const slices = (labelmap.imageIds ?? []).map((id) => {
      const image = cache.getImage(id);
      const plane = metaData.get('imagePlaneModule', image.referencedImageId);
      return {
        position: Array.from(plane.imagePositionPatient), rows: image.rows, columns: image.columns,
        voxels: base64(Uint8Array.from(image.voxelManager.getScalarData())),
      };
    });
    const segments = Object.values(segmentation.segments).map((segment) => ({
      index: segment.segmentIndex, label: segment.label, center: segment.cachedStats?.center?.world ?? segment.cachedStats?.namedStats?.center?.value ?? null,
    }));
    return { label: segmentation.label, slices, segments, keys: Object.keys(labelmap) };
  });
}

function report() {
  const sets = window.services.displaySetService.getActiveDisplaySets();
  const set = sets.find((entry) => entry.Modality === 'SR');
  return {
    loaded: set.isLoaded, rehydratable: Boolean(set.isRehydratable),
    measurements: (set.measurements ?? []).map((one) => ({
      uid: one.TrackingUniqueIdentifier, label: one.TrackingIdentifier, loaded: one.loaded,
      values: (one.labels ?? []).map((text) => `${text.label}: ${text.value}`),
      coordinates: (one.coords ?? []).map((entry) => ({
        type: entry.GraphicType, image: entry.ReferencedSOPSequence?.ReferencedSOPInstanceUID, points: Array.from(entry.GraphicData),
      })),
    })),
    text: document.body.innerText,
  };
}

try {
  await load();
  const modalities = await page.evaluate(() => window.services.displaySetService.getActiveDisplaySets().map((set) => set.Modality));
  seen.modalities = modalities;
  if (modalities.includes('SEG')) {
    await thumbnail('SEG').dblclick();
    await page.getByRole('button', { name: 'Yes', exact: true }).first().click();
    await page.waitForFunction(() => window.services.segmentationService.getSegmentations().length > 0);
    await page.waitForTimeout(4000);
    seen.segmentations = await page.evaluate(labelmaps);
    await shoot('seg');
  }
  if (modalities.includes('SR')) {
    await thumbnail('SR').dblclick();
    await page.waitForFunction(() => window.services.displaySetService.getActiveDisplaySets().find((set) => set.Modality === 'SR')?.isLoaded);
    await page.waitForTimeout(4000);
    seen.report = await page.evaluate(report);
    await shoot('sr');
  }
} catch (error) {
  seen.failure = String(error);
  await shoot('failure').catch(() => {});
} finally {
  writeFileSync(`${out}/seen.json`, JSON.stringify(seen));
  await context.close();
}
