"""The vocabulary of made pages, in English and Korean."""


def _phrases(text: str) -> list[str]:
    return [phrase.strip() for phrase in text.split(";")]


WORDS_EN = """
the of and to in is that for it as was with be by on not he this are at from have or an they which one you were all
we can had there will would each about how up out them then she many some so these her make like him into time has
look two more write go see number no way could people my than first water been call who oil its now find long down
day did get come made may part over new sound take only little work know place year live me back give most very
after thing our just name good sentence man think say great where help through much before line right too mean old
any same tell boy follow came want show also around form three small set put end does another well large must big
even such because turn here why ask went men read need land different home us move try kind hand picture again
change off play spell air away animal house point page letter mother answer found study still learn should world
high every near add food between own below country plant last school father keep tree never start city earth eye
light thought head under story saw left few while along might close something seem next hard open example begin life
always those both paper together got group often run important until children side feet car mile night walk white
sea began grow took river four carry state once book hear stop without second later miss idea enough eat face watch
far really almost let above girl sometimes mountain cut young talk soon list song being leave family agreement
invoice contract delivery payment account balance schedule quarterly report committee director regarding enclosed
receipt office manager production quality inspection certificate approval signature application department attached
reference policy insurance equipment maintenance laboratory research analysis budget
""".split()
WORDS_KO = """
회의 내용 결과 보고서 계약 금액 일정 담당자 부서 프로젝트 개발 검토 승인 요청 자료 제출 확인 완료 진행 예정 문의
답변 고객 서비스 제품 품질 관리 생산 배송 주문 결제 환불 교환 영수증 세금 계산서 거래 명세서 견적 발주 납품 검수
재고 창고 매장 본사 지점 사업자 등록 번호 대표 이사 과장 부장 사원 직원 교육 연수 평가 성과 목표 계획 전략 시장
조사 분석 통계 그래프 비율 증가 감소 안내 공지 신청 접수 처리 기간 마감 시작 종료 오전 오후 내일 어제 오늘 다음
지난 매주 월요일 화요일 수요일 목요일 금요일 서울 부산 대구 인천 광주 대전 울산 세종 경기 강원 충청 전라 경상 제주
학교 학생 선생님 연구 논문 실험 측정 온도 압력 속도 거리 무게 높이 길이 넓이 사람 시간 생각 문제 방법 경우 사회
문화 경제 정치 역사 과학 기술 환경 건강 음식 여행 가족 친구 사랑 희망 행복 마음 이야기 하늘 바다 바람 나무 꽃 봄
여름 가을 겨울 아침 저녁 밤 새벽 물 불 땅 집 길 문 창문 책상 의자 컴퓨터 전화 편지 사진 음악 영화 그림 운동 축구
야구
""".split()
MODIFIERS_KO = """
위하여 대하여 따라서 그러나 그리고 또한 매우 가장 모든 각각 관련 필요한 중요한 새로운 다양한 정확한 빠른 좋은 높은
낮은 깊은 넓은 짧은 귀하의 본인은 상기 하기 아래와 같이 위와 첨부 별첨 참조 이하 이상
""".split()
VERBS_KO = """
합니다 됩니다 있습니다 없습니다 바랍니다 드립니다 하였다 되었다 하였습니다 진행합니다 확인하였다 예정입니다
같습니다 않습니다
""".split()
FIRST_EN = """
James Mary John Linda Robert Susan Michael Karen David Lisa William Nancy Richard Betty Thomas Helen Paul Anna Mark
Laura Steven Grace Kevin Emma Brian Olivia George Sophia Edward Julia Ahmad Siti Wei Mei Raj Priya Hans Ingrid
Pierre
""".split()
LAST_EN = """
Smith Johnson Brown Taylor Miller Wilson Moore Anderson Jackson White Harris Martin Thompson Garcia Clark Lewis
Walker Hall Young King Wright Scott Green Baker Adams Nelson Hill Campbell Mitchell Roberts Carter Phillips Evans
Turner Tan Lim Wong Lee Abdullah Rahman Kumar Singh Becker Schmidt Dubois
""".split()
TOWNS = """
Springfield Riverside Franklin Greenville Bristol Clinton Fairview Salem Madison Georgetown Arlington Ashland Dover
Oxford Jackson Burlington Manchester Milton Newport Auburn Dayton Lexington Kingston Hudson
""".split()
FAMILY_KO = "김이박최정강조윤장임한오서신권황안송류전홍고문양손배백허유남심노하곽성차주우구민진지엄채원천방공현"
GIVEN_KO = (
    "민서준지우현도연수진영호성은재희경미정혜선윤아하나예주원태건동석규훈상철명숙옥자순복길용기범찬빈율린채소다솔별"
)
STREETS = """
Street Road Avenue Lane Drive Boulevard Way Court
""".split()
SHOP_EN = """
MART STORE CAFE BAKERY PHARMACY HARDWARE BOOKS RESTAURANT TRADING SUPPLIES GROCER
""".split()
SHOP_KO = """
마트 편의점 식당 카페 베이커리 약국 문구 서점 상회 분식 정육점 꽃집 치킨 반점 한의원 전자 철물점 슈퍼
""".split()
REGIONS_KO = {
    "서울특별시": "강남구 서초구 송파구 마포구 종로구 용산구 영등포구 관악구".split(),
    "부산광역시": "해운대구 수영구 동래구 사하구".split(),
    "대구광역시": "수성구 달서구 중구".split(),
    "인천광역시": "남동구 부평구 연수구".split(),
    "경기도": "수원시 성남시 고양시 용인시 안양시".split(),
    "제주특별자치도": "제주시 서귀포시".split(),
    "강원도": "춘천시 원주시 강릉시".split(),
    "전라북도": "전주시 익산시 군산시".split(),
}
ROADS_KO = """
테헤란로 강남대로 세종대로 을지로 종로 중앙로 시청로 학동로 봉은사로 퇴계로 한강대로 올림픽로 동일로 경인로
""".split()
ITEMS_EN = _phrases("""
Americano; Caffe Latte; Green Tea; Orange Juice 1L; Fresh Milk 500ml; White Bread; Croissant; Chicken Sandwich;
Beef Burger; French Fries; Fried Rice; Noodle Soup; Iced Lemon Tea; Mineral Water; Potato Chips 60g;
Dark Chocolate; Bananas kg; Tomatoes kg; Eggs 10s; Olive Oil 750ml; Basmati Rice 5kg; Toothpaste; Shampoo 400ml;
Paper Towels; Battery AA x4; USB Cable 2m; LED Bulb 9W; Notebook A5; Ball Pen Blue; Masking Tape; Screwdriver;
Wood Screw 4x40; Paint Brush 2in; Vitamin C 500mg; Paracetamol; Parking Fee; Delivery; Plastic Bag; Set Lunch A;
Roast Duck; Teh Ais; Nasi Goreng; Door Lock; PVC Pipe 20mm; Light Switch
""")
ITEMS_KO = _phrases("""
아메리카노; 카페라떼; 녹차라떼; 오렌지주스; 우유 500ml; 식빵; 크루아상; 김치찌개; 된장찌개; 비빔밥; 불고기정식;
떡볶이; 순대; 김밥; 라면; 돈까스; 냉면; 삼겹살 1인분; 공기밥; 소주; 맥주 500cc; 콜라; 사이다; 생수 2L; 바나나우유;
초코파이; 새우깡; 감자칩; 계란 10구; 두부; 콩나물; 대파; 양파 1kg; 쌀 10kg; 참기름; 고추장; 치약; 샴푸; 휴지 30롤;
건전지 AA; 볼펜; 공책; 테이프; 우산; 봉투; 종량제봉투 20L; 배달료; 주차요금; 약값; 마스크
""")
FIELDS_EN = _phrases("""
Name; Date of birth; Address; City; Postal code; Telephone; E-mail; Occupation; Employer; Account no.; Policy no.;
Date; Place; Department; Purpose; Amount; Reference; Nationality; Passport no.; Vehicle no.; Contact person;
Remarks
""")
FIELDS_KO = _phrases("""
성명; 생년월일; 주소; 연락처; 이메일; 소속; 직위; 부서; 계좌번호; 은행명; 신청일; 접수번호; 용도; 금액; 비고;
대표자; 사업자번호; 상호; 업태; 종목; 발급일자; 유효기간; 관계; 서명
""")
TITLES_EN = _phrases("""
APPLICATION FORM; REGISTRATION; INSPECTION REPORT; DELIVERY NOTE; CLAIM FORM; PURCHASE ORDER; MEMBERSHIP FORM;
CONSENT FORM; INVOICE; CERTIFICATE OF RECEIPT
""")
TITLES_KO = _phrases("""
신청서; 거래명세서; 견적서; 재직증명서; 위임장; 검사성적서; 납품확인서; 등록신청서; 동의서; 지출결의서
""")
BOARD_EN = _phrases("""
TODO; agenda; next steps; deadline Fri; ask Anna; v2.1 release; budget?; y = ax + b; f(x) = sin x; E = mc2;
a + b > c; Plan A; Plan B; meeting 3pm; call client; review code; fix bug #42; input; output; start; stop; loss;
data; model; test; users; server; cache; idea!; why?; Q1 Q2 Q3 Q4; 100%; x1 x2 x3; dx/dt; sum = 24; 200 km; 36.5 C;
yes / no; max min
""")
BOARD_KO = _phrases("""
할 일; 회의 안건; 다음 단계; 마감 금요일; 검토 필요; 예산?; 목표 설정; 역할 분담; 일정표; 중간 점검; 설계안; 입력;
출력; 시작; 끝; 데이터; 모델; 실험 결과; 질문 있음; 확인 요망; 비용 절감; 고객 의견; 개선 방안; 오후 3시 회의;
총 24명; 정확도 95%; 원인 분석; 해결책
""")

# The 2350 syllables of KS X 1001, which every Korean font has; a few are mixed in so that rare ones are seen too.
SYLLABLES = [bytes((0xB0 + i // 94, 0xA1 + i % 94)).decode("euc_kr") for i in range(2350)]
