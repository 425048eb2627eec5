-- How often people of each plan see a doctor: the question of the experiment, across both firms.
SELECT coinsurance, COUNT(*) AS person_years, AVG(doctor_visits) AS visits
FROM insurer.plans JOIN clinic.care USING (person_id, year)
GROUP BY coinsurance
ORDER BY coinsurance;

-- What the plans cost, by the insurer alone.
SELECT coinsurance, AVG(medical_spend) AS spending, SUM(medical_spend) AS total
FROM insurer.plans
GROUP BY coinsurance;

-- Visits of a person over all its years, by plan: each person counts once.
WITH visits AS (
  SELECT person_id, SUM(doctor_visits) AS total, COUNT(*) AS years
  FROM clinic.care
  GROUP BY person_id
)
SELECT p.coinsurance, AVG(v.total / v.years) AS visits_per_year, COUNT(DISTINCT p.person_id) AS people
FROM insurer.plans AS p JOIN visits AS v ON v.person_id = p.person_id
WHERE p.year = 1
GROUP BY p.coinsurance;

-- Whether who saw a doctor was admitted more often, by sex.
SELECT female, AVG(CASE WHEN admissions > 0 THEN 1 ELSE 0 END) AS admitted, COUNT(*) FILTER (WHERE doctor_visits > 0) AS seen
FROM insurer.plans JOIN clinic.care USING (person_id, year)
GROUP BY female;

-- Spending by ten years of age.
SELECT FLOOR(age / 10) * 10 AS decade, COUNT(*) AS person_years, AVG(medical_spend) AS spending
FROM insurer.plans
GROUP BY decade;

-- How spending spreads, and whether health and visits go together.
SELECT STDDEV(medical_spend) AS spread FROM insurer.plans WHERE female = 0;
SELECT CORR(general_health, doctor_visits) AS together, COUNT(general_health) AS asked FROM clinic.care;
