// The colour of heat: from dark blue over green to yellow, each step as much lighter as the one before, so that it reads
// the same without red or green, and in grey. Computed in OKLab (Ottosson, A perceptual color space for image
// processing, 2020); colours that no screen can show lose chroma, never lightness.

const [DARK, LIGHT] = [0.27, 0.95];
const [FIRST_HUE, LAST_HUE] = [290, 106]; // degrees
const CHROMA = 0.16;

function linear(lightness, chroma, hue) {
  const [a, b] = [chroma * Math.cos(hue), chroma * Math.sin(hue)];
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s];
}

const shown = (value) => Math.round(255 * (value <= 0.0031308 ? 12.92 * value : 1.055 * value ** (1 / 2.4) - 0.055));

// Red, green and blue of heat 0…255, three bytes each.
export const HEAT = new Uint8ClampedArray(768);
for (let i = 0; i < 256; i++) {
  const lightness = DARK + ((LIGHT - DARK) * i) / 255;
  const hue = ((FIRST_HUE + ((LAST_HUE - FIRST_HUE) * i) / 255) * Math.PI) / 180;
  let chroma = CHROMA;
  while (linear(lightness, chroma, hue).some((one) => one < 0 || one > 1)) chroma *= 0.98;
  HEAT.set(linear(lightness, chroma, hue).map(shown), 3 * i);
}
